//! The files, the policy and what the page is told, without a socket.

use super::*;
use http_body_util::BodyExt;

fn console(websocket: &str, demo_key: Option<&'static str>) -> Console {
    Console::new(Facts { websocket: websocket.parse().expect("an address"), demo_key })
}

fn get(console: &Console, path: &str, host: &str) -> Response<Full<Bytes>> {
    console.answer(path, &HeaderMap::new(), host).unwrap_or_else(|| panic!("no {path}"))
}

async fn text(response: Response<Full<Bytes>>) -> String {
    let bytes = response.into_body().collect().await.expect("whole").to_bytes();
    String::from_utf8(bytes.to_vec()).expect("text")
}

fn policy(websocket: &str, host: &str) -> String {
    let response = get(&console(websocket, None), "/", host);
    response.headers()[CONTENT_SECURITY_POLICY].to_str().expect("ASCII").to_owned()
}

#[tokio::test]
async fn every_file_is_served_and_everything_a_file_names_is_a_file_of_ours() {
    let console = console("127.0.0.1:8765", None);
    for (path, content_type, content) in FILES {
        let response = get(&console, path, "localhost");
        assert_eq!(response.headers()[CONTENT_TYPE], *content_type, "{path}");
        assert_eq!(text(response).await, *content, "{path}");
        // Of what is not vendored: `src="…"`, `href="console/…"`, `from "./…"`.
        for (before, folder) in [(r#"src=""#, "/"), (r#"href="console"#, "/console"), (r#"from "./"#, "/console/")] {
            for rest in content.split(before).skip(1).filter(|_| !path.contains("/vendor/")) {
                let named = format!("{folder}{}", rest.split('"').next().expect("closed"));
                assert!(FILES.iter().any(|(path, ..)| *path == named), "{path} names {named}");
            }
        }
    }
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/net/console");
    for entry in std::fs::read_dir(folder).expect("the folder") {
        let name = entry.expect("an entry").file_name().into_string().expect("UTF-8");
        let served = FILES.iter().any(|(path, ..)| path.ends_with(&format!("/{name}")) || *path == "/");
        assert!(served || ["vendor", "tests.rs"].contains(&name.as_str()), "{name} is not served");
    }
}

#[test]
fn no_file_of_ours_holds_inline_code_or_asks_another_server() {
    for (path, _, content) in FILES.iter().filter(|(path, ..)| !path.contains("/vendor/")) {
        for forbidden in ["<style", "style=\"", "onclick=", "javascript:", "https://", "innerHTML", "eval("] {
            assert!(!content.contains(forbidden), "{path} has {forbidden}");
        }
        let bare = content.match_indices("<script").any(|(at, _)| {
            !content[at..].starts_with("<script src=") && !content[at..].starts_with("<script type=\"module\" src=")
        });
        assert!(!bare, "{path} has a script without src");
    }
}

#[tokio::test]
async fn what_the_browser_holds_is_not_sent_again_and_a_changed_file_is() {
    let console = console("127.0.0.1:8765", None);
    let first = get(&console, "/console/main.mjs", "localhost");
    let etag = first.headers()[ETAG].clone();
    assert_eq!(first.headers()[CACHE_CONTROL], "no-cache");
    assert_ne!(etag, get(&console, "/console/style.css", "localhost").headers()[ETAG]);
    let ask = |tags: &str| {
        let headers = HeaderMap::from_iter([(IF_NONE_MATCH, HeaderValue::from_str(tags).expect("a value"))]);
        console.answer("/console/main.mjs", &headers, "localhost").expect("a file")
    };
    let tag = etag.to_str().expect("ASCII");
    for held in [tag.to_owned(), format!("W/{tag}"), format!("\"other\", {tag}")] {
        let again = ask(&held);
        assert_eq!((again.status(), &again.headers()[ETAG]), (StatusCode::NOT_MODIFIED, &etag), "{held}");
        assert_eq!(text(again).await, "");
    }
    let changed = ask("\"0123456789abcdef\"");
    assert_eq!(changed.status(), StatusCode::OK);
    assert!(!text(changed).await.is_empty());
}

#[test]
fn the_policy_names_this_server_and_the_websocket_address_and_nobody_else() {
    let want = |websocket| {
        format!(
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self' {websocket}; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
        )
    };
    for (listens, host, websocket) in [
        ("127.0.0.1:8765", "127.0.0.1:9464", "ws://127.0.0.1:8765"),
        ("127.0.0.1:8765", "localhost:9464", "ws://127.0.0.1:8765"),
        ("0.0.0.0:8765", "10.1.2.3:9464", "ws://10.1.2.3:8765"),
        ("0.0.0.0:8765", "ops.example", "ws://ops.example:8765"),
        ("[::]:8765", "localhost:9464", "ws://localhost:8765"),
        ("[::1]:8765", "[::1]:9464", "ws://*:8765"),
        ("[::]:8765", "[fd00::7]:9464", "ws://*:8765"),
    ] {
        assert_eq!(policy(listens, host), want(websocket), "{listens} as {host}");
    }
}

#[tokio::test]
async fn the_page_is_told_where_ticks_come_from_and_the_demo_key_only_while_there_is_one() {
    for (listens, host, key, websocket) in [
        ("127.0.0.1:8765", "localhost:9464", Some("demo-key"), "ws://127.0.0.1:8765"),
        ("0.0.0.0:8765", "10.1.2.3:9464", None, "ws://10.1.2.3:8765"),
        ("[::]:8765", "[::1]:9464", None, "ws://[::1]:8765"),
    ] {
        let response = get(&console(listens, key), "/console.json", host);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
        let got: serde_json::Value = serde_json::from_str(&text(response).await).expect("JSON");
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(got, serde_json::json!({"version": version, "websocket": websocket, "demo_key": key}));
    }
}

#[test]
fn other_paths_are_not_ours() {
    let console = console("127.0.0.1:8765", None);
    for path in ["/metrics", "/console", "/console/", "/console/tests.rs", "/console/../index.html", "/index.html"] {
        assert!(console.answer(path, &HeaderMap::new(), "localhost").is_none(), "{path}");
    }
}
