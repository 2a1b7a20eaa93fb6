//! File and file system information classes (MS-FSCC 2.4, 2.5).
