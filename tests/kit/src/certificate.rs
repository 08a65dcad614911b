//! A certificate for servers by https in tests.

/// A certificate for 127.0.0.1 that signs itself, in base64; made for tests alone.
pub const CERTIFICATE: &str = "\
    MIIBWDCB/6ADAgECAgEBMAoGCCqGSM49BAMCMBQxEjAQBgNVBAMMCXdlaXIgdGVzdDAgFw0yMDAxMDEwMDAwMDBa\
    GA8yMTIwMDEwMTAwMDAwMFowFDESMBAGA1UEAwwJd2VpciB0ZXN0MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE\
    GPLiqG5IIusRc3DiEVpLlAa5DuFngorEiSJiOq5pqsO6i6eE9wld1hgny6MEOH192NYHVj6o2/rDuvRLblq+oqNA\
    MD4wDwYDVR0RBAgwBocEfwAAATAMBgNVHRMBAf8EAjAAMB0GA1UdDgQWBBTdly1cOFUtZexluKJjh+wFTYK8zjAK\
    BggqhkjOPQQDAgNIADBFAiB0vrFJMHMPtrZvpI/X1kqD1vs1eXZCeYC8SMUqotERZgIhAPSHniFd5t1PC0l0CZr6\
    Q+Tl89mcofD84JwIGnM4807k";
/// Its key, in base64.
pub const PRIVATE_KEY: &str = "\
    MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgrC7eHY6X2OfEovaG+OhjYUxDQs4wc1YVm74vmRBr\
    2TmhRANCAAQY8uKobkgi6xFzcOIRWkuUBrkO4WeCisSJImI6rmmqw7qLp4T3CV3WGCfLowQ4fX3Y1gdWPqjb+sO6\
    9EtuWr6i";
