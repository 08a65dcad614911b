//! nginx with the nchan module: one worker on the server's core, serving exactly the bytes it is
//! given.
//!
//! The configuration is written from an answer of the candidate, so that both send the same body,
//! and the same headers as far as nginx lets us (it always adds `Server` and `Connection`).

use std::fmt::Write;
use std::fs;
use std::net::SocketAddrV4;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::http::Client;
use crate::machine::Cores;
use crate::process::{self, Launch, Package, Process};
use crate::{Bench, Failure};
use weir_testkit::Response;

const NCHAN_MODULE: &str = "/usr/lib/nginx/modules/ngx_nchan_module.so";

const NGINX: Package = Package {
    name: "nginx",
    proof: || Path::new("/usr/sbin/nginx").exists(),
};

const NCHAN: Package = Package {
    name: "libnginx-mod-nchan",
    proof: || Path::new(NCHAN_MODULE).exists(),
};

/// Where the generators find it.
pub struct Nginx {
    pub process: Process,
    pub to: SocketAddrV4,
}

/// A fixed answer: the same bytes as `return` and as a static file behind `open_file_cache`; the
/// stronger is used.
pub struct Fixed {
    pub target: String,
    pub file_target: String,
    pub answer: Response,
}

/// Body served with gzip on the fly and as a prepared `.gz` (P12).
pub struct Compressed {
    pub body: Vec<u8>,
}

pub fn version() -> String {
    let output = std::process::Command::new("/usr/sbin/nginx")
        .arg("-v")
        .output();
    output.map_or_else(
        |_| "nginx ?".into(),
        |output| {
            String::from_utf8_lossy(&output.stderr)
                .trim()
                .replace("nginx version: ", "")
        },
    )
}

impl Nginx {
    pub fn start(
        bench: &Bench,
        fixed: Option<&Fixed>,
        compressed: Option<&Compressed>,
    ) -> Result<Nginx, Failure> {
        process::install(&[NGINX, NCHAN])?;
        let to = process::free_port()?;
        let directory = bench.directory(&format!("nginx-{}", to.port()))?;
        let configuration = directory.join("nginx.conf");
        fs::write(
            &configuration,
            configure(&directory, to, bench.cores, fixed, compressed)?,
        )?;
        let mut process = Process::start(
            Launch {
                name: "nginx",
                program: Path::new("/usr/sbin/nginx"),
                arguments: vec![
                    "-p".into(),
                    directory.display().to_string(),
                    "-c".into(),
                    configuration.display().to_string(),
                ],
                user: None,
                log: directory.join("stderr.log"),
            },
            bench.cores,
        )?;
        process.wait_for_port(to)?;
        // The master listens before its worker exists; the meter must see both.
        let started = Instant::now();
        while process.pids().len() < 2 {
            if started.elapsed() > Duration::from_secs(10) {
                return Err("nginx has no worker".into());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Client::new(to, "").get("/")?;
        Ok(Nginx { process, to })
    }
}

fn quoted(text: &str) -> Result<String, Failure> {
    if text.contains('\'') && text.contains('"') {
        return Err(
            "a header or body with both kinds of quotes cannot be written into nginx.conf".into(),
        );
    }
    // nginx expands $ in these strings and has no escape for it.
    if text.contains('$') {
        return Err("a body with $ cannot be served by `return`".into());
    }
    let quote = if text.contains('\'') { '"' } else { '\'' };
    Ok(format!("{quote}{}{quote}", text.replace('\\', "\\\\")))
}

fn configure(
    directory: &Path,
    to: SocketAddrV4,
    cores: Cores,
    fixed: Option<&Fixed>,
    compressed: Option<&Compressed>,
) -> Result<String, Failure> {
    let directory = directory.display();
    let mut out = String::new();
    let affinity = if cores.pinned {
        "worker_cpu_affinity 01;\n"
    } else {
        ""
    };
    write!(
        out,
        "daemon off;\nuser root;\nworker_processes 1;\n{affinity}pid {directory}/nginx.pid;\nerror_log {directory}/error.log warn;\n\
         worker_rlimit_nofile 20000;\nload_module {NCHAN_MODULE};\n\
         events {{ worker_connections 19900; multi_accept on; use epoll; }}\n\
         http {{\n access_log off; server_tokens off; etag off; tcp_nodelay on; sendfile on;\n\
         keepalive_timeout 3600s 75s; keepalive_requests 1000000000; nchan_max_reserved_memory 512M;\n\
         client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;\n\
         uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;\n\
         server {{\n  listen {to} backlog=65535; root {directory};\n\
         location = /wait {{ nchan_subscriber longpoll; nchan_channel_id ch; nchan_subscriber_timeout 600s; nchan_subscriber_first_message newest; }}\n\
         location = /publish {{ nchan_publisher; nchan_channel_id ch; nchan_message_buffer_length 1; }}\n"
    )?;
    if let Some(fixed) = fixed {
        let mut headers = String::new();
        let mut kind = "application/json".to_owned();
        for (name, value) in fixed.answer.headers() {
            match name.to_ascii_lowercase().as_str() {
                "content-type" => value.clone_into(&mut kind),
                "date" | "content-length" | "connection" | "server" | "keep-alive"
                | "transfer-encoding" => {}
                _ => writeln!(headers, "   add_header {name} {};", quoted(value)?)?,
            }
        }
        let body = fixed.answer.text();
        let path = fixed.target.split('?').next().unwrap_or("/");
        write!(
            out,
            "location = {path} {{ default_type '{kind}'; types {{}}\n{headers}   return {} {}; }}\n\
             location = {} {{ default_type '{kind}'; types {{}} alias {directory}/fixed; open_file_cache max=10 inactive=1h;\n\
             open_file_cache_valid 1h; add_header Last-Modified '';\n{headers} }}\n",
            fixed.answer.status,
            quoted(&body)?,
            fixed.file_target
        )?;
        fs::write(format!("{directory}/fixed"), &fixed.answer.body)?;
    }
    if let Some(compressed) = compressed {
        fs::create_dir_all(format!("{directory}/files"))?;
        fs::write(format!("{directory}/files/whole.json"), &compressed.body)?;
        process::run(
            std::process::Command::new("gzip")
                .args(["-9", "-k", "-f"])
                .arg(format!("{directory}/files/whole.json")),
        )?;
        write!(
            out,
            "location = /gzip-on/whole.json {{ alias {directory}/files/whole.json; default_type application/json; open_file_cache max=10;\n\
             gzip on; gzip_comp_level 1; gzip_types *; gzip_http_version 1.1; }}\n\
             location = /gzip-static/whole.json {{ alias {directory}/files/whole.json; default_type application/json; open_file_cache max=10; gzip_static on; }}\n"
        )?;
    }
    out.push_str(" }\n}\n");
    Ok(out)
}
