//! An HTTP/1 server for one page. Each connection answers one request and has little time for it,
//! so clients that are slow or say nothing hold up nobody else.

use std::{convert::Infallible, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Bytes,
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{Sample, encode};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

/// What a client may take up.
#[derive(Clone, Copy)]
struct Limits {
    /// For the head of the request.
    head: Duration,
    /// For the whole connection.
    connection: Duration,
    /// Connections at a time; more wait.
    connections: usize,
}

const LIMITS: Limits = Limits {
    head: Duration::from_secs(5),
    // As long as Prometheus itself waits by default (scrape_timeout).
    connection: Duration::from_secs(10),
    connections: 64,
};

/// Answers `GET /metrics` with a fresh sample for as long as the future lives; open connections end
/// with it.
pub async fn serve<S>(listener: TcpListener, source: S) -> Infallible
where
    S: Fn() -> Result<Sample> + Send + Sync + 'static,
{
    serve_within(LIMITS, listener, source).await
}

async fn serve_within<S>(limits: Limits, listener: TcpListener, source: S) -> Infallible
where
    S: Fn() -> Result<Sample> + Send + Sync + 'static,
{
    let source = Arc::new(source);
    let places = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            continue;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, or a client that left early: both pass.
                log::debug!("metrics: accept: {error}");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let source = Arc::clone(&source);
        connections.spawn(async move {
            let _place = place;
            if let Err(error) = serve_one(limits, stream, &*source).await {
                log::debug!("metrics: {error:#}");
            }
        });
    }
}

async fn serve_one<S>(limits: Limits, stream: TcpStream, source: &S) -> Result<()>
where
    S: Fn() -> Result<Sample> + Send + Sync,
{
    let service = service_fn(|request| {
        let response = respond(&request, source);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .serve_connection(TokioIo::new(stream), service);
    timeout(limits.connection, connection)
        .await
        .context("the client took too long")??;
    Ok(())
}

fn respond<B>(request: &Request<B>, source: impl Fn() -> Result<Sample>) -> Response<Full<Bytes>> {
    if request.uri().path() != "/metrics" {
        return page(
            StatusCode::NOT_FOUND,
            PLAIN,
            "metrics are under /metrics\n".to_owned(),
        );
    }
    if request.method() != Method::GET {
        let text = "only GET is answered\n".to_owned();
        let mut response = page(StatusCode::METHOD_NOT_ALLOWED, PLAIN, text);
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET"));
        return response;
    }
    match source().and_then(|sample| Ok(encode(sample)?)) {
        Ok(text) => page(StatusCode::OK, OPEN_METRICS, text),
        Err(error) => {
            log::warn!("metrics: {error:#}");
            page(
                StatusCode::INTERNAL_SERVER_ERROR,
                PLAIN,
                format!("{error:#}\n"),
            )
        }
    }
}

fn page(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use std::{
        net::SocketAddr,
        sync::atomic::{AtomicBool, Ordering},
        time::Instant,
    };

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        runtime,
    };

    use super::*;
    use crate::{
        metrics::text::tests::{parse, sample},
        snapshot::tests::{RULE_9, snapshot},
    };

    const SHORT: Limits = Limits {
        head: Duration::from_millis(300),
        connection: Duration::from_millis(600),
        connections: 8,
    };

    /// Runs `test` beside a server that fails on demand.
    fn with_server<F: Future<Output = ()>>(test: impl FnOnce(SocketAddr, Arc<AtomicBool>) -> F) {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let addr = listener.local_addr().unwrap();
            let fails = Arc::new(AtomicBool::new(false));
            let source = {
                let fails = Arc::clone(&fails);
                move || {
                    anyhow::ensure!(!fails.load(Ordering::Relaxed), "the map is gone");
                    Ok(sample(snapshot(&[(RULE_9, 7)])))
                }
            };
            tokio::select! {
                never = serve_within(SHORT, listener, source) => match never {},
                () = test(addr, fails) => {}
            }
        });
    }

    async fn ask(addr: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn get(addr: SocketAddr, path: &str) -> String {
        ask(addr, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await
    }

    #[test]
    fn metrics_come_in_the_format_they_claim() {
        with_server(async |addr, _| {
            for path in ["/metrics", "/metrics?name=x"] {
                let answer = get(addr, path).await;
                let (head, body) = answer.split_once("\r\n\r\n").unwrap();
                assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
                assert!(
                    head.contains(&format!("content-type: {OPEN_METRICS}")),
                    "{head}"
                );
                let nine = "sidecar_ebpf_decisions_total{hook=\"connect4\",rule=\"9\",\
                            action=\"redirect-outbound\"}";
                assert_eq!(parse(body)[nine], 7.0);
            }
        });
    }

    #[test]
    fn anything_else_is_refused() {
        with_server(async |addr, fails| {
            assert!(get(addr, "/").await.starts_with("HTTP/1.1 404 "));
            assert!(get(addr, "/metrics/x").await.starts_with("HTTP/1.1 404 "));
            for method in ["POST", "HEAD", "PUT"] {
                let request = format!("{method} /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
                let answer = ask(addr, &request).await;
                assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
                assert!(answer.contains("allow: GET"), "{answer}");
            }
            assert!(
                ask(addr, "nonsense\r\n\r\n")
                    .await
                    .starts_with("HTTP/1.1 400 ")
            );
            fails.store(true, Ordering::Relaxed);
            let answer = get(addr, "/metrics").await;
            assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
            assert!(answer.ends_with("the map is gone\n"), "{answer}");
        });
    }

    #[test]
    fn silent_and_slow_clients_hold_up_nobody_and_are_sent_away() {
        with_server(async |addr, _| {
            let mut silent = TcpStream::connect(addr).await.unwrap();
            let mut slow = TcpStream::connect(addr).await.unwrap();
            slow.write_all(b"GET /metrics HTTP/1.1\r\nHost:")
                .await
                .unwrap();
            let start = Instant::now();
            assert!(get(addr, "/metrics").await.starts_with("HTTP/1.1 200 "));
            assert!(start.elapsed() < SHORT.head, "{:?}", start.elapsed());
            for stream in [&mut silent, &mut slow] {
                let mut answer = Vec::new();
                let end = timeout(4 * SHORT.connection, stream.read_to_end(&mut answer)).await;
                assert!(end.is_ok(), "still open");
                assert!(!answer.starts_with(b"HTTP/1.1 200 "));
            }
        });
    }

    #[test]
    fn more_clients_than_places_are_served_in_turn() {
        with_server(async |addr, _| {
            let mut idle = Vec::new();
            for _ in 0..SHORT.connections {
                idle.push(TcpStream::connect(addr).await.unwrap());
            }
            let answer = timeout(4 * SHORT.connection, get(addr, "/metrics"))
                .await
                .unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 "));
        });
    }
}
