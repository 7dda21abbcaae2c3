//! The files of Amazon's tools: `~/.aws/credentials` and `~/.aws/config`, as far as a store needs them.
//!
//! Read are static keys, the region and the endpoint of one profile (`AWS_PROFILE`, else `default`). What the environment
//! says goes first. Roles, single sign-on and commands that print credentials are not followed: their owners' tools
//! can put keys into the environment or the file.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// Names and values.
pub type Variables = BTreeMap<String, String>;

/// Adds to the variables what they lack and the files have.
pub(super) fn complete(variables: &mut Variables, read: impl Fn(&PathBuf) -> Option<String>) {
    let has = |name: &str| variables.get(name).is_some_and(|value| !value.is_empty());
    let path = |name: &str, default: &str| match variables.get(name).filter(|path| !path.is_empty()) {
        Some(path) => Some(PathBuf::from(path)),
        None => variables.get("HOME").filter(|home| !home.is_empty()).map(|home| PathBuf::from(home).join(default)),
    };
    let file = |name: &str, default: &str| path(name, default).and_then(|path| read(&path)).unwrap_or_default();
    let profile = variables.get("AWS_PROFILE").filter(|name| !name.is_empty()).map_or("default", String::as_str);
    let credentials = section(&file("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials"), profile);
    let config = section(&file("AWS_CONFIG_FILE", ".aws/config"), profile);
    let mut found = Vec::new();
    let mut take = |key: &str, name: &str, from: &[&BTreeMap<String, String>]| {
        if let Some(value) = from.iter().find_map(|section| section.get(key)) {
            found.push((name.to_owned(), value.clone()));
        }
    };
    // Keys and token belong together: never one from here and one from there. Other ways in come first too.
    let given =
        ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_SKIP_SIGNATURE"].map(has);
    if !given.contains(&true) {
        let keys = [&credentials, &config].into_iter().find(|section| section.contains_key("aws_access_key_id"));
        if let Some(keys) = keys {
            take("aws_access_key_id", "AWS_ACCESS_KEY_ID", &[keys]);
            take("aws_secret_access_key", "AWS_SECRET_ACCESS_KEY", &[keys]);
            take("aws_session_token", "AWS_SESSION_TOKEN", &[keys]);
        }
    }
    if !has("AWS_REGION") && !has("AWS_DEFAULT_REGION") {
        take("region", "AWS_REGION", &[&config, &credentials]);
    }
    if !has("AWS_ENDPOINT_URL") && !has("AWS_ENDPOINT_URL_S3") && !has("AWS_ENDPOINT") {
        take("endpoint_url", "AWS_ENDPOINT_URL", &[&config, &credentials]);
    }
    if !has("AWS_CA_BUNDLE") {
        take("ca_bundle", "AWS_CA_BUNDLE", &[&config]);
    }
    variables.extend(found);
}

/// The settings of `[name]` or `[profile name]`.
fn section(text: &str, name: &str) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    let mut inside = false;
    for line in text.lines() {
        let trimmed = line.trim();
        if let Some(header) = trimmed.strip_prefix('[').and_then(|line| line.split_once(']')).map(|(inner, _)| inner) {
            let header = header.trim();
            inside = header == name || header.strip_prefix("profile").is_some_and(|rest| rest.trim() == name);
            continue;
        }
        // Indented lines are the settings of another service; of those none is needed.
        let nested = line.starts_with([' ', '\t']);
        if !inside || nested || trimmed.starts_with(['#', ';']) {
            continue;
        }
        if let Some((key, value)) = trimmed.split_once('=') {
            settings.insert(key.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREDENTIALS: &str = "\
# comment
[default]
aws_access_key_id = AKID
aws_secret_access_key=SECRET=with=signs

[work]
aws_access_key_id = WORK
aws_secret_access_key = WORKSECRET
aws_session_token = TOKEN
";
    const CONFIG: &str = "\
[default]
region = eu-west-1
s3 =
  endpoint_url = http://elsewhere
[profile work]
region=us-west-2
endpoint_url = https://store.example
";

    fn completed(given: &[(&str, &str)]) -> Variables {
        let mut variables: Variables = given.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        complete(&mut variables, |path| match path.to_str() {
            Some("/home/u/.aws/credentials") => Some(CREDENTIALS.to_owned()),
            Some("/home/u/.aws/config") => Some(CONFIG.to_owned()),
            Some("/other") => Some("[default]\naws_access_key_id = OTHER\naws_secret_access_key = X\n".to_owned()),
            _ => None,
        });
        variables
    }

    #[test]
    fn the_profile_gives_what_the_environment_lacks() {
        let found = completed(&[("HOME", "/home/u")]);
        assert_eq!(found["AWS_ACCESS_KEY_ID"], "AKID");
        assert_eq!(found["AWS_SECRET_ACCESS_KEY"], "SECRET=with=signs");
        assert_eq!(found["AWS_REGION"], "eu-west-1");
        assert!(!found.contains_key("AWS_SESSION_TOKEN") && !found.contains_key("AWS_ENDPOINT_URL"));
        let found = completed(&[("HOME", "/home/u"), ("AWS_PROFILE", "work"), ("AWS_REGION", "here")]);
        assert_eq!(found["AWS_ACCESS_KEY_ID"], "WORK");
        assert_eq!(found["AWS_SESSION_TOKEN"], "TOKEN");
        assert_eq!(found["AWS_REGION"], "here");
        assert_eq!(found["AWS_ENDPOINT_URL"], "https://store.example");
        let found = completed(&[("AWS_SHARED_CREDENTIALS_FILE", "/other")]);
        assert_eq!(found["AWS_ACCESS_KEY_ID"], "OTHER");
    }

    #[test]
    fn keys_of_two_places_are_never_mixed() {
        let given =
            [("HOME", "/home/u"), ("AWS_PROFILE", "work"), ("AWS_ACCESS_KEY_ID", "E"), ("AWS_SECRET_ACCESS_KEY", "S")];
        let found = completed(&given);
        assert_eq!(found["AWS_ACCESS_KEY_ID"], "E");
        assert!(!found.contains_key("AWS_SESSION_TOKEN"), "the token is of the other key");
        assert_eq!(completed(&[("HOME", "/nowhere")]).len(), 1);
        assert_eq!(completed(&[]).len(), 0);
    }
}
