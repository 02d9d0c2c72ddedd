use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use poem_hanko::{Config, ConfigErrors, HankoChoice, LogFormat, TrustedProxies};
use proptest::prelude::*;

fn read(variables: &[(&str, &str)], choice: HankoChoice) -> Result<Config, ConfigErrors> {
    let variables: HashMap<String, String> = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    Config::from_lookup(move |name| variables.get(name).cloned(), choice)
}

#[track_caller]
fn refuses(variable: &str, value: &str, says: &str) {
    let line = refuses_exactly(variable, value, says);
    assert!(line.contains(value), "{line}");
}

/// The same, whether or not the value is shown.
#[track_caller]
fn refuses_exactly(variable: &str, value: &str, says: &str) -> String {
    let errors = read(&[(variable, value)], HankoChoice::Local)
        .unwrap_err()
        .0;
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert_eq!(errors[0].variable, variable);
    let line = errors[0].to_string();
    assert!(line.contains(says), "{line}");
    line
}

#[test]
fn defaults_are_those_of_the_readme() {
    let config = read(
        &[("HANKO_API_URL", "https://x.hanko.io")],
        HankoChoice::Configured,
    )
    .unwrap();
    assert_eq!(config.http.host, IpAddr::from([127, 0, 0, 1]));
    assert_eq!(config.http.port, 8000);
    assert!(config.http.allowed_origins.is_empty());
    assert_eq!(config.http.public_url(8000), "http://localhost:8000");
    assert_eq!(config.http.shutdown_grace, Duration::from_secs(10));
    assert_eq!(config.hanko.cookie_name, "hanko");
    assert_eq!(config.hanko.leeway, Duration::from_secs(30));
    assert!(config.hanko.audiences.is_empty());
    assert_eq!(config.hanko.issuer, None);
    let policy = &config.hanko.fetch_policy;
    assert_eq!(policy.timeout, Duration::from_secs(5));
    assert_eq!(policy.max_age, Duration::from_mins(10));
    assert_eq!(policy.cooldown, Duration::from_secs(30));
    assert_eq!(policy.max_stale, Duration::from_hours(24));
    assert_eq!(config.http.sign_in_url, None);
    assert!(config.http.trusted_proxies.is_empty());
    assert!(config.http.docs);
    assert!(!config.http.access_log);
    assert_eq!(config.telemetry.format, LogFormat::Text);
    assert_eq!(config.telemetry.filter, "info");
}

#[test]
fn the_example_file_lists_every_variable_with_its_default() {
    let example = include_str!("../../.env.example");
    let variables: HashMap<String, String> = example
        .lines()
        .map(|line| line.trim_start_matches("# "))
        .filter_map(|line| line.split_once('='))
        .filter(|(name, _)| name.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let lookup = {
        let (asked, variables) = (Arc::clone(&asked), variables.clone());
        move |name: &str| {
            asked.lock().unwrap().push(name.to_owned());
            match name {
                "HANKO_API_URL" => Some("https://x.hanko.io".to_owned()),
                _ => variables.get(name).cloned(),
            }
        }
    };
    let config = Config::from_lookup(lookup, HankoChoice::Configured).unwrap();
    for name in asked.lock().unwrap().iter() {
        assert!(
            variables.contains_key(name),
            "{name} is not in .env.example"
        );
    }
    let defaults = read(
        &[("HANKO_API_URL", "https://x.hanko.io")],
        HankoChoice::Configured,
    )
    .unwrap();
    // If the default is unset, the file has an example, commented out.
    let without_examples = |config: &Config| {
        let mut config = config.clone();
        config.http.public_url = None;
        config.http.admin_address = None;
        config.http.allowed_origins.clear();
        config.http.sign_in_url = None;
        config.http.trusted_proxies = TrustedProxies::default();
        config.hanko.audiences.clear();
        config.hanko.issuer = None;
        config.revocation.store_url = None;
        format!("{config:?}")
    };
    assert_eq!(without_examples(&config), without_examples(&defaults));
    for line in example.lines().filter(|line| !line.is_empty()) {
        assert!(
            line.starts_with("# ") || line == "HANKO_API_URL=",
            "{line} is not commented out"
        );
    }
}

#[test]
fn all_mistakes_are_reported_at_once() {
    let errors = read(
        &[
            ("PORT", "http"),
            ("HOST", "everywhere"),
            ("JWT_LEEWAY", "30"),
            ("CORS_ALLOWED_ORIGINS", "*"),
            ("LOG_FORMAT", "xml"),
        ],
        HankoChoice::Configured,
    )
    .unwrap_err()
    .0;
    let variables: Vec<&str> = errors.iter().map(|error| error.variable).collect();
    assert_eq!(
        variables,
        [
            "HOST",
            "PORT",
            "CORS_ALLOWED_ORIGINS",
            "HANKO_API_URL",
            "JWT_LEEWAY",
            "LOG_FORMAT"
        ]
    );
}

#[test]
fn a_missing_url_is_explained() {
    for value in [None, Some(""), Some("  ")] {
        let variables: Vec<(&str, &str)> = value
            .iter()
            .map(|value| ("HANKO_API_URL", *value))
            .collect();
        let errors = read(&variables, HankoChoice::Configured).unwrap_err();
        let text = errors.to_string();
        assert!(text.contains("HANKO_API_URL is not set"), "{text}");
        assert!(text.contains("dashboard"), "{text}");
        assert!(text.contains("cargo run -- dev"), "{text}");
    }
}

#[test]
fn a_secret_in_a_url_is_masked() {
    let errors = read(
        &[("HANKO_API_URL", "https://operator:hunter2@x.hanko.io")],
        HankoChoice::Configured,
    )
    .unwrap_err();
    let text = errors.to_string();
    assert!(text.contains("https://***@x.hanko.io"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn no_error_prints_a_password() {
    for (variable, url) in [
        ("REVOCATION_STORE_URL", "redis://:hun/ter2@redis.example"),
        ("REVOCATION_STORE_URL", "redis://:hun#ter2@redis.example"),
        ("REVOCATION_STORE_URL", "redis://:hun?ter2@redis.example"),
        ("REVOCATION_STORE_URL", "redis://:hun@ter2:x"),
        ("REVOCATION_STORE_URL", "redis://:hunter2"),
        ("REVOCATION_STORE_URL", "redis://:hunter2@redis.example/db"),
        ("REVOCATION_STORE_URL", "redis:/:hunter2@redis.example"),
        ("REVOCATION_STORE_URL", "user:hunter2@redis.example"),
        ("REVOCATION_STORE_URL", "hunter2"),
        ("HANKO_API_URL", "https:/user:hunter2@x.hanko.io"),
        ("HANKO_API_URL", "https://user:hunter2@x.hanko.io"),
        ("HANKO_API_URL", "user:hunter2@x.hanko.io"),
        ("HANKO_API_URL", "https://x.hanko.io?key=hunter2"),
        ("PUBLIC_URL", "https://user:hunter2@api.example"),
        ("SIGN_IN_URL", "https://user:hunter2@app.example"),
        ("SIGN_IN_URL", "https://app.example/#hunter2"),
        ("TRUSTED_PROXIES", "10.0.0.0/8,https://user:hunter2@x"),
        ("PUBLIC_URL", "https://api.example/#hunter2"),
        ("CORS_ALLOWED_ORIGINS", "https://hun/ter2@app.example"),
        ("CORS_ALLOWED_ORIGINS", "https://user:hunter2@app.example"),
        ("CORS_ALLOWED_ORIGINS", "https://user:hun,ter2@app.example"),
        ("CORS_ALLOWED_ORIGINS", "https://a.example:1,ter2@b.example"),
        ("CORS_ALLOWED_ORIGINS", "https:/user:hunter2"),
        ("RUST_LOG", "redis:/:hun,ter2=loud"),
        ("PORT", "https:user:hunter2"),
        ("PORT", "REDIS:/:hunter2"),
        ("PORT", "redis://:hunter2@redis.example"),
    ] {
        let errors = read(&[(variable, url)], HankoChoice::Configured).unwrap_err();
        let text = errors.to_string();
        assert!(text.contains(variable), "{url}: {text}");
        assert!(
            !text.contains("hun") && !text.contains("ter2"),
            "{url}: {text}"
        );
    }
}

proptest! {
    #[test]
    fn no_error_prints_a_piece_of_a_password(
        variable in prop::sample::select(vec![
            "HANKO_API_URL",
            "PUBLIC_URL",
            "SIGN_IN_URL",
            "TRUSTED_PROXIES",
            "REVOCATION_STORE_URL",
            "CORS_ALLOWED_ORIGINS",
            "HANKO_AUDIENCE",
            "HANKO_ISSUER",
            "RUST_LOG",
            "PORT",
        ]),
        template in prop::sample::select(vec![
            "https://user:PASSWORD@h.example",
            "https://PASSWORD@h.example",
            "https://user:PASSWORD",
            "https:/user:PASSWORD@h.example",
            "https:user:PASSWORD",
            "HTTPS:///user:PASSWORD",
            "http:\\\\user:PASSWORD@h.example",
            "redis://:PASSWORD@h.example:6379/1",
            "rediss:/:PASSWORD",
            "redis::PASSWORD",
            "redis://h.example?password=PASSWORD",
            "https://a.example, https://user:PASSWORD@h.example, https://b.example/",
            "https://a.example:PASSWORD@h.example",
        ]),
        // Three pieces that occur nowhere else, with anything between them that may break a URL or a list.
        breaks in prop::array::uniform2("[/#?@,:;%\\\\ =.0-9a-z]{0,4}"),
    ) {
        let password = format!("Xq1{}Xq2{}Xq3", breaks[0], breaks[1]);
        let value = template.replace("PASSWORD", &password);
        let variables = [("HANKO_API_URL", "https://x.hanko.io"), (variable, &value)];
        if let Err(errors) = read(&variables, HankoChoice::Configured) {
            let text = errors.to_string();
            prop_assert!(!text.contains("Xq"), "{variable}={value} is shown: {text}");
        }
    }
}

#[test]
fn empty_value_that_would_weaken_a_check_is_an_error() {
    for variable in [
        "HANKO_AUDIENCE",
        "HANKO_ISSUER",
        "HANKO_COOKIE_NAME",
        "HANKO_SESSION_MODE",
        "SESSION_CACHE_TTL",
        "JWT_LEEWAY",
        "JWKS_CACHE_MAX_AGE",
        "JWKS_MAX_STALE",
        "REVOCATION_STORE_URL",
        "PUBLIC_URL",
        "DOCS",
    ] {
        for value in ["", "  "] {
            refuses_exactly(variable, value, "must not be empty");
        }
    }
    // Here an empty value means unset, and the default is as strict as any other value.
    for variable in [
        "HOST",
        "PORT",
        "HANKO_ALLOW_HTTP",
        "CORS_ALLOWED_ORIGINS",
        "JWKS_TIMEOUT",
        "JWKS_COOLDOWN",
        "TOKEN_CACHE_CAPACITY",
        "SIGN_IN_URL",
        "TRUSTED_PROXIES",
        "LOG_FORMAT",
        "RUST_LOG",
        "ACCESS_LOG",
        "SHUTDOWN_GRACE",
    ] {
        let config = read(&[(variable, "")], HankoChoice::Local).unwrap();
        let defaults = read(&[], HankoChoice::Local).unwrap();
        assert_eq!(format!("{config:?}"), format!("{defaults:?}"), "{variable}");
    }
}

#[test]
fn loopback_origins_of_a_public_service_are_found() {
    let config = read(
        &[(
            "CORS_ALLOWED_ORIGINS",
            "https://app.example, http://localhost:3000, https://127.0.0.1:3000",
        )],
        HankoChoice::Local,
    )
    .unwrap();
    assert_eq!(
        config.http.stray_loopback_origins("https://api.example"),
        ["http://localhost:3000", "https://127.0.0.1:3000"]
    );
    for public_url in ["http://localhost:8000", "http://127.0.0.2:8000"] {
        assert!(config.http.stray_loopback_origins(public_url).is_empty());
    }
}

#[test]
fn sign_in_url_may_have_a_query() {
    let url = "https://app.example/sign-in?tenant=7";
    let config = read(&[("SIGN_IN_URL", url)], HankoChoice::Local).unwrap();
    assert_eq!(config.http.sign_in_url.as_deref(), Some(url));
}

#[test]
fn trusted_proxies_are_networks() {
    let list = "10.0.0.0/8, 2001:db8::7";
    let config = read(&[("TRUSTED_PROXIES", list)], HankoChoice::Local).unwrap();
    assert!(
        config
            .http
            .trusted_proxies
            .contains(IpAddr::from([10, 9, 8, 7]))
    );
    assert!(
        !config
            .http
            .trusted_proxies
            .contains(IpAddr::from([11, 9, 8, 7]))
    );
}

#[test]
fn plain_http_needs_to_be_allowed() {
    let url = ("HANKO_API_URL", "http://hanko.internal:8000/tenant");
    let errors = read(&[url], HankoChoice::Configured).unwrap_err();
    assert!(
        errors.to_string().contains("HANKO_ALLOW_HTTP=true"),
        "{errors}"
    );
    assert!(
        read(
            &[url, ("HANKO_ALLOW_HTTP", "true")],
            HankoChoice::Configured
        )
        .is_ok()
    );
}

#[test]
fn wrong_values_are_named_with_the_fix() {
    refuses("HOST", "localhost:8000", "IP address");
    refuses("PORT", "65536", "0 to 65535");
    refuses("CORS_ALLOWED_ORIGINS", "*", "exact origins");
    refuses(
        "CORS_ALLOWED_ORIGINS",
        "https://app.example/",
        "https://app.example is",
    );
    refuses("HANKO_COOKIE_NAME", "ha nko", "cookie name");
    refuses("HANKO_AUDIENCE", ",", "names no audience");
    refuses("JWT_LEEWAY", "11m", "at most 10m");
    refuses("JWKS_TIMEOUT", "0s", "more than zero");
    refuses("JWKS_COOLDOWN", "soon", "500ms");
    refuses("JWKS_MAX_STALE", "5m", "JWKS_CACHE_MAX_AGE (default 10m)");
    refuses("JWKS_CACHE_MAX_AGE", "48h", "JWKS_MAX_STALE (default 24h)");
    for url in [
        "redis",
        "http://localhost:6379",
        "redis://",
        "redis://localhost/notadb",
        "redis://localhost?protocol=zz",
    ] {
        refuses("REVOCATION_STORE_URL", url, "redis://localhost:6379");
    }
    refuses("PUBLIC_URL", "api.example", "https://api.example");
    for url in [
        "app.example/sign-in",
        "ftp://app.example",
        "https://user@app.example",
        "https://app.example/#sign-in",
    ] {
        refuses_exactly("SIGN_IN_URL", url, "https://app.example/sign-in");
    }
    refuses("TRUSTED_PROXIES", "10.0.0.0/33", "10.0.0.0/8");
    refuses("DOCS", "no", "true or false");
    refuses("ACCESS_LOG", "on", "true or false");
    refuses("LOG_FORMAT", "xml", "text or json");
    refuses("RUST_LOG", "poem_hanko=loud", "filter");
    refuses("SHUTDOWN_GRACE", "-1s", "duration");
}

#[test]
fn the_default_url_of_the_service_is_one_that_reaches_it() {
    for (host, url) in [
        ("127.0.0.1", "http://localhost:81"),
        ("localhost", "http://localhost:81"),
        ("::1", "http://localhost:81"),
        ("0.0.0.0", "http://localhost:81"),
        ("::", "http://localhost:81"),
        ("127.0.0.2", "http://127.0.0.2:81"),
        ("192.0.2.7", "http://192.0.2.7:81"),
        ("2001:db8::7", "http://[2001:db8::7]:81"),
    ] {
        let config = read(&[("HOST", host)], HankoChoice::Local).unwrap();
        assert_eq!(config.http.public_url(81), url);
    }
}

#[test]
fn an_empty_origin_list_allows_nobody_but_ourselves() {
    let config = read(&[("CORS_ALLOWED_ORIGINS", "")], HankoChoice::Local).unwrap();
    assert!(config.http.allowed_origins.is_empty());
    assert_eq!(
        config.http.trusted_origins("https://api.example/v1"),
        ["https://api.example"]
    );
}
