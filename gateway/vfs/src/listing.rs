//! Tables for people: every record of the administration as a line of text, and times as text.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::admin::{
    GroupRecord, LockRecord, RuleRecord, RuleVerdict, SessionRecord, ShareRecord, SimulatedChange,
    UserRecord, VersionRecord,
};

/// A record that can stand in a table.
pub trait TableRow {
    /// Column heads.
    const HEADS: &'static [&'static str];

    /// One cell for each head.
    fn cells(&self) -> Vec<String>;
}

/// Rows below their heads, columns aligned, every line ended; nothing but the heads if there are no rows.
pub fn render_table<R: TableRow>(rows: &[R]) -> String {
    let cells: Vec<Vec<String>> = rows.iter().map(TableRow::cells).collect();
    let mut widths: Vec<usize> = R::HEADS.iter().map(|head| head.chars().count()).collect();
    for row in &cells {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = line(&widths, R::HEADS.iter().copied());
    for row in &cells {
        text.push_str(&line(&widths, row.iter().map(String::as_str)));
    }
    text
}

fn line<'a>(widths: &[usize], cells: impl Iterator<Item = &'a str>) -> String {
    let mut text = String::new();
    for (width, cell) in widths.iter().zip(cells) {
        // Names come from clients: a control character must not move the administrator's cursor.
        let clean = cell.replace(char::is_control, "?");
        text.push_str(&format!("{clean:<width$}  "));
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

fn yes_no(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}

fn or_dash(value: &str) -> String {
    if value.is_empty() { "-" } else { value }.to_owned()
}

fn size_words(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut value = bytes;
    while value >= 10 * 1024 && unit + 1 < UNITS.len() {
        value /= 1024;
        unit += 1;
    }
    format!("{value} {}", UNITS.get(unit).copied().unwrap_or("B"))
}

/// A moment as RFC 3339 text in UTC, to the millisecond: `2026-11-22T03:28:12.000Z`.
pub fn rfc3339(time: SystemTime) -> String {
    rfc3339_ms(millis_of(time))
}

/// The wall clock in milliseconds since 1970.
pub(crate) fn unix_ms() -> i64 {
    millis_of(SystemTime::now())
}

fn millis_of(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
    }
}

/// As [`rfc3339`], from milliseconds since 1970.
pub(crate) fn rfc3339_ms(millis: i64) -> String {
    let (days, rest) = (millis.div_euclid(86_400_000), millis.rem_euclid(86_400_000));
    let (year, month, day) = civil(days);
    let (seconds, ms) = (rest / 1000, rest % 1000);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{ms:03}Z",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

/// Proleptic Gregorian date of a day counted from 1970-01-01. Counts from March, so that the leap day comes last.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// A span of time as people say it: `850 ms`, `12 s`, `3 min`, `5 h`, `2 d`.
pub(crate) fn span_words(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..120_000 => format!("{} s", ms / 1000),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        7_200_000..172_800_000 => format!("{} h", ms / 3_600_000),
        _ => format!("{} d", ms / 86_400_000),
    }
}

impl TableRow for UserRecord {
    const HEADS: &'static [&'static str] =
        &["NAME", "UID", "GID", "GROUPS", "ADMIN", "LOGIN", "SID"];

    fn cells(&self) -> Vec<String> {
        let login = match (self.disabled, self.password_set) {
            (true, _) => "disabled",
            (false, true) => "password",
            (false, false) => "no password",
        };
        vec![
            self.name.clone(),
            self.uid.to_string(),
            self.gid.to_string(),
            or_dash(&self.groups.join(",")),
            yes_no(self.admin),
            login.to_owned(),
            self.sid.clone(),
        ]
    }
}

impl TableRow for GroupRecord {
    const HEADS: &'static [&'static str] = &["NAME", "GID", "MEMBERS", "SID"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.gid.to_string(),
            or_dash(&self.members.join(",")),
            self.sid.clone(),
        ]
    }
}

impl TableRow for ShareRecord {
    const HEADS: &'static [&'static str] = &[
        "NAME",
        "PATH",
        "PROTOCOLS",
        "READ-ONLY",
        "NFS CLIENTS",
        "SQUASH",
        "CASE",
        "QUOTA",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.path.clone(),
            or_dash(&self.protocols.join(",")),
            yes_no(self.read_only),
            or_dash(&self.nfs_clients.join(",")),
            self.squash.clone(),
            self.case.clone(),
            self.quota_bytes.map_or("-".to_owned(), size_words),
        ]
    }
}

impl TableRow for RuleRecord {
    const HEADS: &'static [&'static str] = &[
        "ID",
        "SHARE",
        "PATH",
        "PROTOCOL",
        "WHO",
        "CLIENT",
        "WRITE",
        "WRITERS",
        "ON CONFLICT",
        "WAIT",
    ];

    fn cells(&self) -> Vec<String> {
        let any = |value: &Option<String>| value.clone().unwrap_or_else(|| "*".to_owned());
        let word = |value: Option<&'static str>| value.unwrap_or("-").to_owned();
        let rule = &self.rule;
        let who = match (&rule.user, &rule.group) {
            (Some(user), _) => format!("user {user}"),
            (None, Some(group)) => format!("group {group}"),
            (None, None) => "*".to_owned(),
        };
        vec![
            self.id.to_string(),
            any(&rule.share),
            any(&rule.path),
            rule.protocol
                .map_or("*", crate::policy::protocol_word)
                .to_owned(),
            who,
            any(&rule.client),
            word(rule.write.map(crate::policy::write_word)),
            word(rule.writers.map(crate::policy::writers_word)),
            word(rule.on_conflict.map(crate::policy::on_conflict_word)),
            rule.wait.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    }
}

impl TableRow for RuleVerdict {
    const HEADS: &'static [&'static str] = &["ID", "APPLIES", "WHY"];

    fn cells(&self) -> Vec<String> {
        vec![self.id.to_string(), yes_no(self.applies), self.why.clone()]
    }
}

impl TableRow for SimulatedChange {
    const HEADS: &'static [&'static str] = &["PATH", "WHO", "BEFORE", "AFTER", "CHANGED"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.path.clone(),
            self.who.clone(),
            self.before.clone(),
            self.after.clone(),
            yes_no(self.changed),
        ]
    }
}

impl TableRow for LockRecord {
    const HEADS: &'static [&'static str] = &[
        "ID", "KIND", "PATH", "WHAT", "PROTOCOL", "USER", "CLIENT", "NODE", "SINCE", "RULE",
        "FREED BY",
    ];

    fn cells(&self) -> Vec<String> {
        let client = if self.client_name.is_empty() {
            self.client.clone()
        } else {
            format!("{} ({})", self.client, self.client_name)
        };
        let what = match &self.waits_for {
            Some(conflict) => format!("{}; waits for: {conflict}", self.what),
            None => self.what.clone(),
        };
        vec![
            self.id.to_string(),
            self.kind.clone(),
            self.path.clone(),
            what,
            self.protocol.clone(),
            or_dash(&self.user),
            client,
            self.node.clone(),
            format!("{} ago", span_words(self.age_ms)),
            self.rule.clone(),
            self.freed_by.clone(),
        ]
    }
}

impl TableRow for SessionRecord {
    const HEADS: &'static [&'static str] = &[
        "ID",
        "PROTOCOL",
        "USERS",
        "CLIENT",
        "CLIENT NAME",
        "NODE",
        "SINCE",
        "OPENS",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.to_string(),
            self.protocol.clone(),
            or_dash(&self.users.join(",")),
            self.client.clone(),
            or_dash(&self.client_name),
            self.node.clone(),
            self.since.clone(),
            self.opens.to_string(),
        ]
    }
}

impl TableRow for VersionRecord {
    const HEADS: &'static [&'static str] = &[
        "VERSION",
        "SIZE",
        "COMMITTED",
        "AUTHOR",
        "PROTOCOL",
        "CURRENT",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.version.to_string(),
            size_words(self.size),
            self.committed.clone(),
            or_dash(&self.author),
            or_dash(&self.protocol),
            yes_no(self.current),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_told_in_utc_leap_days_and_years_before_1970_included() {
        assert_eq!(rfc3339_ms(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339_ms(1_709_164_800_123), "2024-02-29T00:00:00.123Z");
        assert_eq!(rfc3339_ms(-1), "1969-12-31T23:59:59.999Z");
        assert_eq!(rfc3339_ms(951_782_400_000), "2000-02-29T00:00:00.000Z");
    }

    #[test]
    fn a_table_aligns_its_columns_and_lets_no_control_character_through() {
        let row = RuleVerdict {
            id: 1234,
            rule: String::new(),
            applies: true,
            why: "bad\u{1b}[2Jname".to_owned(),
        };
        assert_eq!(
            render_table(&[row]),
            "ID    APPLIES  WHY\n1234  yes      bad?[2Jname\n"
        );
    }
}
