//! Who a client is: SPNEGO and NTLMv2.
