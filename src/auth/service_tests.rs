//! Key checks in front of a store that answers when the test says so.

use super::*;
use crate::auth::sqlite::{KeyFile, Which};
use crate::model::Class;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

const IP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// A store that says when it is asked and answers when it is told.
struct Paused {
    asked: SyncSender<String>,
    go_on: Receiver<Result<(), AuthError>>,
    invalidated: Arc<AtomicU64>,
}

impl KeyStore for Paused {
    fn verify(&mut self, api_key: &str) -> Result<Identity, AuthError> {
        self.asked.send(api_key.into()).unwrap();
        self.go_on.recv().unwrap().map(|()| Identity {
            user: "asha".into(),
            broker: None,
            class: Class::Normal,
            key_id: 1,
            demo: false,
        })
    }

    fn still_valid(&mut self, _key_id: u64) -> Result<bool, AuthError> {
        Ok(true)
    }

    fn broker_of(&mut self, _user: &str) -> Result<Option<Arc<str>>, AuthError> {
        Ok(None)
    }

    fn count(&mut self) -> Result<usize, AuthError> {
        Ok(1)
    }

    fn invalidate(&mut self) {
        self.invalidated.fetch_add(1, Ordering::SeqCst);
    }
}

struct Pause {
    service: AuthService,
    pool: AuthPool,
    asked: Receiver<String>,
    go_on: SyncSender<Result<(), AuthError>>,
    invalidated: Arc<AtomicU64>,
}

/// A service with one thread, so that the order is known.
fn paused(failures_per_ip_per_minute: u32) -> Pause {
    let (asked_in, asked) = sync_channel(8);
    let (go_on, go_on_out) = sync_channel(8);
    let invalidated = Arc::new(AtomicU64::new(0));
    let store = Paused { asked: asked_in, go_on: go_on_out, invalidated: invalidated.clone() };
    let opened = Opened { stores: vec![Box::new(store)], failures_per_ip_per_minute };
    let (service, pool) = opened.start(AuthMetrics::register()).unwrap();
    Pause { service, pool, asked, go_on, invalidated }
}

#[tokio::test]
async fn an_address_with_too_many_failures_is_refused_before_its_key_is_looked_at() {
    let pause = paused(2);
    for _ in 0..2 {
        pause.go_on.send(Err(AuthError::Invalid)).unwrap();
        assert_eq!(pause.service.authenticate("wrong".into(), IP).await, Err(AuthFailure::Invalid));
    }
    assert_eq!(pause.service.authenticate("right".into(), IP).await, Err(AuthFailure::TooManyAttempts));
    assert_eq!(pause.asked.try_iter().count(), 2);
    pause.go_on.send(Ok(())).unwrap();
    assert!(pause.service.authenticate("right".into(), "10.1.1.1".parse().unwrap()).await.is_ok());
}

#[tokio::test]
async fn attempts_that_came_in_together_cost_no_more_than_the_burst() {
    let pause = paused(2);
    let attempts: Vec<_> = (0..8)
        .map(|n| {
            let service = pause.service.clone();
            tokio::spawn(async move { service.authenticate(format!("guess {n}"), IP).await })
        })
        .collect();
    // The first has begun and the others have queued before any fails.
    tokio::task::yield_now().await;
    pause.go_on.send(Err(AuthError::Invalid)).unwrap();
    pause.go_on.send(Err(AuthError::Invalid)).unwrap();
    let mut refused = 0;
    for attempt in attempts {
        refused += u32::from(attempt.await.unwrap() == Err(AuthFailure::TooManyAttempts));
    }
    assert_eq!((refused, pause.asked.try_iter().count()), (6, 2));
}

#[tokio::test]
async fn a_store_that_cannot_answer_does_not_count_against_the_address() {
    let pause = paused(1);
    for _ in 0..3 {
        pause.go_on.send(Err(AuthError::Unavailable("disk".into()))).unwrap();
        let failure = pause.service.authenticate("key".into(), IP).await;
        assert_eq!(failure, Err(AuthFailure::Unavailable("disk".into())));
    }
}

#[tokio::test]
async fn empty_and_endless_keys_never_reach_the_store() {
    let pause = paused(0);
    for key in [String::new(), "x".repeat(KEY_BYTES_MAX + 1)] {
        assert_eq!(pause.service.authenticate(key, IP).await, Err(AuthFailure::Invalid));
    }
    assert_eq!(pause.asked.try_iter().count(), 0);
}

#[tokio::test]
async fn a_full_queue_answers_busy_and_given_up_attempts_cost_nothing() {
    let pause = paused(0);
    let first = tokio::spawn({
        let service = pause.service.clone();
        async move { service.authenticate("first".into(), IP).await }
    });
    let asked = tokio::task::spawn_blocking(move || (pause.asked.recv().unwrap(), pause.asked)).await.unwrap();
    assert_eq!(asked.0, "first");
    let waiting: Vec<_> = (0..WAITING_MAX)
        .map(|n| {
            let mut attempt = Box::pin(pause.service.authenticate(format!("waiting {n}"), IP));
            let polled = std::future::Future::poll(
                attempt.as_mut(),
                &mut std::task::Context::from_waker(std::task::Waker::noop()),
            );
            assert!(polled.is_pending());
            attempt
        })
        .collect();
    assert_eq!(pause.service.authenticate("one more".into(), IP).await, Err(AuthFailure::Busy));
    drop(waiting);
    pause.go_on.send(Ok(())).unwrap();
    assert!(first.await.unwrap().is_ok());
    drop(pause.service);
    pause.pool.join();
    assert_eq!(asked.1.try_iter().count(), 0, "nobody was waiting for those any more");
}

#[tokio::test]
async fn an_invalidation_reaches_the_store_before_the_next_key() {
    let pause = paused(0);
    pause.service.invalidate();
    pause.go_on.send(Ok(())).unwrap();
    assert!(pause.service.authenticate("key".into(), IP).await.is_ok());
    assert_eq!(pause.invalidated.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_key_of_the_file_opens_the_door_until_it_is_revoked() {
    let file = std::env::temp_dir().join(format!("tickcast-service-{}.db", std::process::id()));
    let _ = std::fs::remove_file(&file);
    let mut keys = KeyFile::open(&file, true).unwrap();
    let key = keys.add("asha", "Angel", Class::High).unwrap();
    let config = AuthConfig { store: StoreConfig::Sqlite(file.clone()), failures_per_ip_per_minute: 60 };
    let (service, pool) = open(&config).unwrap().start(AuthMetrics::register()).unwrap();
    let identity = service.authenticate(key.clone(), IP).await.unwrap();
    assert_eq!((&*identity.user, identity.broker.as_deref(), identity.class), ("asha", Some("angel"), Class::High));
    assert_eq!(keys.revoke(&Which::User("asha".into())).unwrap(), 1);
    assert_eq!(service.authenticate(key, IP).await, Err(AuthFailure::Invalid));
    drop(service);
    pool.join();
    std::fs::remove_file(&file).unwrap();
}

#[test]
fn a_missing_store_is_refused_at_start() {
    let config =
        AuthConfig { store: StoreConfig::Sqlite("/nonexistent/keys.db".into()), failures_per_ip_per_minute: 60 };
    let error = open(&config).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/keys.db") && error.contains("tickcast keys add"), "{error}");
}

#[test]
fn outcomes_are_counted_and_timed() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let metrics = metrics::with_local_recorder(&recorder, AuthMetrics::register);
    let config = AuthConfig { store: StoreConfig::Demo { broker: "sim".into() }, failures_per_ip_per_minute: 1 };
    let (service, pool) = open(&config).unwrap().start(metrics).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for (key, want) in
        [("demo-key", Ok(())), ("wrong", Err(AuthFailure::Invalid)), ("demo-key", Err(AuthFailure::TooManyAttempts))]
    {
        assert_eq!(runtime.block_on(service.authenticate(key.into(), IP)).map(|_| ()), want);
    }
    let text = recorder.handle().render();
    for line in [
        "tickcast_auth_failures_total{reason=\"invalid\"} 1",
        "tickcast_auth_failures_total{reason=\"too_many_attempts\"} 1",
        "tickcast_auth_failures_total{reason=\"busy\"} 0",
        "tickcast_auth_seconds_count{outcome=\"success\"} 1",
    ] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
    drop(service);
    pool.join();
}
