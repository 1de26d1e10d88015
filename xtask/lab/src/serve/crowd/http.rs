//! The least HTTP server that a real client and a real proxy talk to.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

use crate::wire::{During as _, OpResult};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n";
const LAST_ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n";

pub(super) fn serve(addr: SocketAddr) -> OpResult<SocketAddr> {
    let listener = TcpListener::bind(addr).during(|| format!("listen at {addr}"))?;
    let local = listener.local_addr().during(|| "getsockname".to_owned())?;
    thread::Builder::new()
        .spawn(move || {
            for stream in listener.incoming().flatten() {
                // A thread that cannot be made drops the connection, which the client counts.
                let _ = thread::Builder::new().spawn(move || answer(stream));
            }
        })
        .during(|| format!("HTTP server at {local}"))?;
    Ok(local)
}

/// One request after the other, none of which has a body, until the client has enough.
fn answer(mut stream: TcpStream) {
    // Without it an answer would only be late.
    let _ = stream.set_nodelay(true);
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let length = stream.read(&mut buffer).unwrap_or(0);
        if length == 0 {
            return;
        }
        request.extend_from_slice(buffer.get(..length).unwrap_or_default());
        if !request.ends_with(b"\r\n\r\n") {
            continue;
        }
        let is_last = wants_close(&request);
        request.clear();
        let answer = if is_last { LAST_ANSWER } else { ANSWER };
        if stream.write_all(answer).is_err() || is_last {
            return;
        }
    }
}

fn wants_close(request: &[u8]) -> bool {
    let lines = request.split(|&byte| byte == b'\n');
    let mut lines = lines.map(<[u8]>::trim_ascii);
    lines.any(|line| line.eq_ignore_ascii_case(b"connection: close"))
}
