//! Declarative shapes for XDR structures and enumerations: one list of fields gives both directions.

/// Declares a structure whose XDR form is its fields in order (RFC 4506 4.14).
macro_rules! xdr_struct {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$fmeta:meta])* pub $field:ident : $ty:ty,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name { $($(#[$fmeta])* pub $field: $ty,)* }

        impl $crate::xdr::Xdr for $name {
            fn decode(d: &mut $crate::xdr::Decoder) -> Result<Self, $crate::xdr::XdrError> {
                Ok(Self { $($field: <$ty as $crate::xdr::Xdr>::decode(d)?,)* })
            }
            fn encode(&self, e: &mut $crate::xdr::Encoder) {
                $($crate::xdr::Xdr::encode(&self.$field, e);)*
            }
        }
    };
}

/// Declares an enumeration of 32-bit values (RFC 4506 4.3); an unknown value is an error.
macro_rules! xdr_enum {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$vmeta:meta])* $variant:ident = $value:expr,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum $name { $($(#[$vmeta])* $variant = $value,)* }

        impl $name {
            /// The variant of this wire value, if there is one.
            pub fn from_u32(value: u32) -> Option<Self> {
                match value { $(v if v == $value => Some(Self::$variant),)* _ => None }
            }
        }

        impl $crate::xdr::Xdr for $name {
            fn decode(d: &mut $crate::xdr::Decoder) -> Result<Self, $crate::xdr::XdrError> {
                let value = d.u32()?;
                Self::from_u32(value).ok_or($crate::xdr::XdrError::BadEnum {
                    what: stringify!($name),
                    value,
                })
            }
            fn encode(&self, e: &mut $crate::xdr::Encoder) {
                e.u32(*self as u32);
            }
        }
    };
}
