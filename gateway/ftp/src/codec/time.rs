//! Times in FTP's forms, all in UTC: `YYYYMMDDHHMMSS[.sss]` (RFC 3659 2.3), the dates of `ls -l`, and ISO 8601 for people.

use std::time::{SystemTime, UNIX_EPOCH};

use sluice_vfs::Timestamp;

const NANOS: i64 = 1_000_000_000;
const DAY_S: i64 = 86_400;
/// `ls` shows the year instead of the time of day for what is older than half a year.
const RECENT_S: i64 = 182 * DAY_S;
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// A time taken apart in the Gregorian calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Civil {
    year: i64,
    month: i64,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
}

impl Civil {
    fn from_unix(seconds: i64) -> Civil {
        let days = seconds.div_euclid(DAY_S);
        let of_day = seconds.rem_euclid(DAY_S);
        // Years are counted from March, so that the leap day is a year's last: day 0 is 0000-03-01.
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * day_of_year + 2) / 153;
        let month = if from_march < 10 {
            from_march + 3
        } else {
            from_march - 9
        };
        Civil {
            year: year_of_era + era * 400 + i64::from(month <= 2),
            month,
            day: day_of_year - (153 * from_march + 2) / 5 + 1,
            hour: of_day / 3_600,
            minute: of_day / 60 % 60,
            second: of_day % 60,
        }
    }

    fn to_unix(self) -> i64 {
        let year = self.year - i64::from(self.month <= 2);
        let from_march = (self.month + 9) % 12;
        let day_of_year = (153 * from_march + 2) / 5 + self.day - 1;
        let era = year.div_euclid(400);
        let year_of_era = year.rem_euclid(400);
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        (era * 146_097 + day_of_era - 719_468) * DAY_S
            + self.hour * 3_600
            + self.minute * 60
            + self.second
    }
}

fn civil(time: Timestamp) -> Civil {
    Civil::from_unix(time.0.div_euclid(NANOS))
}

/// `YYYYMMDDHHMMSS`.
pub fn compact(time: Timestamp) -> String {
    let t = civil(time);
    format!(
        "{:04}{:02}{:02}{:02}{:02}{:02}",
        t.year, t.month, t.day, t.hour, t.minute, t.second
    )
}

/// Reads `YYYYMMDDHHMMSS`, with or without a fraction, or without the seconds (SITE UTIME). `None` if it is no such time.
pub fn parse_compact(text: &str) -> Option<Timestamp> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if !(whole.len() == 14 || whole.len() == 12) || !whole.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let field = |from: usize, to: usize| whole.get(from..to).and_then(|d| d.parse::<i64>().ok());
    let parts = Civil {
        year: field(0, 4)?,
        month: field(4, 6)?,
        day: field(6, 8)?,
        hour: field(8, 10)?,
        minute: field(10, 12)?,
        // A leap second is taken as the second before it.
        second: if whole.len() == 14 {
            field(12, 14)?.min(59)
        } else {
            0
        },
    };
    let seconds = parts.to_unix();
    // A day that the month does not have comes back as another date.
    if Civil::from_unix(seconds) != parts {
        return None;
    }
    let nanos = parse_fraction(fraction)?;
    seconds
        .checked_mul(NANOS)?
        .checked_add(nanos)
        .map(Timestamp)
}

fn parse_fraction(digits: &str) -> Option<i64> {
    if digits.is_empty() || digits.len() > 9 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let scale = 10_i64.checked_pow(u32::try_from(9 - digits.len()).ok()?)?;
    digits.parse::<i64>().ok()?.checked_mul(scale)
}

/// The date of `ls -l`: time of day for what is recent as seen from `now`, the year otherwise.
pub fn ls_date(time: Timestamp, now: Timestamp) -> String {
    let t = civil(time);
    let month = usize::try_from(t.month - 1)
        .ok()
        .and_then(|index| MONTHS.get(index))
        .unwrap_or(&"Jan");
    let age_s = now.0.saturating_sub(time.0) / NANOS;
    if (-DAY_S..RECENT_S).contains(&age_s) {
        format!("{month} {:2} {:02}:{:02}", t.day, t.hour, t.minute)
    } else {
        format!("{month} {:2}  {:04}", t.day, t.year)
    }
}

/// `2026-11-22T14:02:07Z`, for messages to people.
pub fn iso(time: SystemTime) -> String {
    let t = civil(from_system(time));
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        t.year, t.month, t.day, t.hour, t.minute, t.second
    )
}

/// A clock reading as a repository time.
pub fn from_system(time: SystemTime) -> Timestamp {
    let nanos = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |n| -n),
    };
    Timestamp(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SOME: Timestamp = Timestamp(1_026_940_035 * NANOS);

    #[test]
    fn compact_times_are_utc() {
        assert_eq!(compact(SOME), "20020717210715");
        assert_eq!(parse_compact("20020717210715"), Some(SOME));
        assert_eq!(
            parse_compact("20020717210715.25"),
            Some(Timestamp(SOME.0 + 250_000_000))
        );
    }

    #[test]
    fn impossible_dates_are_refused() {
        for text in [
            "20230229000000",
            "20231301000000",
            "20230001000000",
            "20230101240000",
            "2023010100",
            "20230101000000.",
            "2023010100000x",
            "99990101000000",
            "é02307172107",
        ] {
            assert_eq!(parse_compact(text), None, "{text}");
        }
    }

    #[test]
    fn listings_show_the_year_of_what_is_old() {
        let later = Timestamp(SOME.0 + 400 * DAY_S * NANOS);
        assert_eq!(ls_date(SOME, SOME), "Jul 17 21:07");
        assert_eq!(ls_date(SOME, later), "Jul 17  2002");
    }

    proptest! {
        #[test]
        fn every_second_survives_the_round_trip(seconds in -9_000_000_000_i64..9_000_000_000) {
            let time = Timestamp(seconds * NANOS);
            prop_assert_eq!(parse_compact(&compact(time)), Some(time));
        }
    }
}
