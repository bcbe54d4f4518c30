//! One private nats-server with JetStream, on free loopback ports, guarded by a random password. It makes no stream:
//! that is the backbone's work.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret as _, SecretString};

use crate::blocking::blocking;
use crate::folder::{self, Folder};
use crate::supervisor::{Duty, Supervisor};
use crate::{DataDir, Downtime, Error, Options, ports, programs, secret};

const PROGRAM: &str = "nats-server";
const USER: &str = "waybill";
const READY_WITHIN: Duration = Duration::from_secs(30);
const PORT_BACK_WITHIN: Duration = Duration::from_secs(10);

/// A NATS to work with: our own, or one whose address was given.
#[derive(Clone)]
pub struct Nats(Kind);

#[derive(Clone)]
enum Kind {
    Given(SecretString),
    Own(Arc<Mutex<Own>>, SecretString),
}

struct Own {
    // Dropped first: the supervisor stops the server before the folder's lock goes.
    supervisor: Supervisor,
    folder: Folder,
    name: String,
    password: String,
    port: u16,
    monitor: u16,
}

impl Nats {
    /// Takes the given one, or starts our own.
    pub async fn start(options: &Options) -> Result<Self, Error> {
        if let Some(given) = &options.nats_url {
            return Ok(Self(Kind::Given(given.clone())));
        }
        let data = options.data.clone();
        blocking(move || Self::launch(&data)).await
    }

    fn launch(data: &DataDir) -> Result<Self, Error> {
        let program = programs::nats_server()?;
        let folder = Folder::open(data, "nats")?;
        let configuration = folder.path.join("nats.conf");
        let command: Vec<OsString> = vec![program.into(), "--config".into(), configuration.into()];
        let supervisor = Supervisor::spawn(&Duty {
            program: PROGRAM,
            log: &folder.log(),
            stop_signal: "TERM",
            remove: folder.temporary.then_some(folder.path.as_path()),
            command: &command,
            lock: &folder.lock,
        })?;
        let name = format!("waybill-{}", secret());
        let mut own = Own {
            supervisor,
            folder,
            name,
            password: secret(),
            port: 0,
            monitor: 0,
        };
        own.start_on_any_port()?;
        let url = format!("nats://{USER}:{}@127.0.0.1:{}", own.password, own.port);
        Ok(Self(Kind::Own(Arc::new(Mutex::new(own)), url.into())))
    }

    /// The connection URL. It holds a password: never log it.
    pub fn url(&self) -> &str {
        match &self.0 {
            Kind::Given(url) | Kind::Own(_, url) => url.expose_secret(),
        }
    }

    /// Ends the server as a power cut would (SIGKILL) and leaves it down.
    pub async fn kill(&self) -> Result<(), Error> {
        self.act("kill", |own| own.supervisor.kill()).await
    }

    /// Stops the server in order and leaves it down.
    pub async fn stop(&self) -> Result<(), Error> {
        self.act("stop", |own| own.supervisor.stop()).await
    }

    /// Brings the server back on the same port, after [`Nats::kill`] or [`Nats::stop`].
    pub async fn resume(&self) -> Result<(), Error> {
        self.act("start", Own::start_again).await
    }

    /// Stops and starts the server; streams and address stay.
    pub async fn restart(&self) -> Result<(), Error> {
        self.act("restart", |own| {
            own.supervisor.stop()?;
            own.start_again()
        })
        .await
    }

    /// Loses everything JetStream ever stored: the server is killed, its storage removed, and it starts empty.
    pub async fn wipe(&self) -> Result<(), Error> {
        self.while_stopped("wipe", Downtime::Kill, |store| fs::remove_dir_all(store))
            .await
    }

    /// Ends the server, does something to the folder of its storage, and brings it back on the same port; also when
    /// `work` fails, whose error is then told.
    pub async fn while_stopped(
        &self,
        what: &'static str,
        downtime: Downtime,
        work: impl FnOnce(&Path) -> io::Result<()> + Send + 'static,
    ) -> Result<(), Error> {
        self.act(what, move |own| {
            match downtime {
                Downtime::Kill => own.supervisor.kill()?,
                Downtime::Stop => own.supervisor.stop()?,
            }
            let store = own.folder.path.join("jetstream");
            let worked = work(&store).map_err(Error::io(what, &store));
            own.start_again()?;
            worked
        })
        .await
    }

    /// Removes what JetStream stored from under the running server, as a careless hand does. What the server makes of it
    /// is its own affair: only [`Nats::kill`] and [`Nats::resume`] bring it back to its senses.
    pub async fn remove_storage(&self) -> Result<(), Error> {
        self.act("remove the storage of", |own| {
            let store = own.folder.path.join("jetstream");
            fs::remove_dir_all(&store).map_err(Error::io("remove", &store))
        })
        .await
    }

    async fn act(
        &self,
        what: &'static str,
        act: impl FnOnce(&mut Own) -> Result<(), Error> + Send + 'static,
    ) -> Result<(), Error> {
        let Kind::Own(own, _) = &self.0 else {
            return Err(Error::NotOurs {
                what,
                program: PROGRAM,
            });
        };
        let own = Arc::clone(own);
        blocking(move || act(&mut own.lock().unwrap_or_else(PoisonError::into_inner))).await
    }
}

impl fmt::Debug for Nats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::Given(_) => "Nats(given)",
            Kind::Own(..) => "Nats(own)",
        })
    }
}

impl Own {
    fn start_on_any_port(&mut self) -> Result<(), Error> {
        loop {
            (self.port, self.monitor) = (ports::free(), ports::free());
            match self.start_once() {
                Err(Error::DidNotStart { log, .. }) if log.contains("address already in use") => {
                    tracing::debug!(port = self.port, "a port was taken meanwhile, trying others");
                }
                other => return other,
            }
        }
    }

    fn start_again(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + PORT_BACK_WITHIN;
        loop {
            // Nobody but us asks the monitor, so its port may change.
            self.monitor = ports::free();
            match self.start_once() {
                Err(Error::DidNotStart { log, .. })
                    if Instant::now() < deadline && log.contains("address already in use") =>
                {
                    std::thread::sleep(Duration::from_millis(50));
                }
                other => return other,
            }
        }
    }

    fn start_once(&mut self) -> Result<(), Error> {
        let store = self.folder.path.join("jetstream");
        folder::make_private(&store)?;
        self.folder
            .write_private("nats.conf", &self.configuration(&store))?;
        let log_start = self.folder.log_length();
        self.supervisor.start()?;
        let deadline = Instant::now() + READY_WITHIN;
        while !self.ready() {
            if !self.supervisor.is_alive()? {
                return Err(Error::DidNotStart {
                    program: PROGRAM,
                    log: self.folder.log_since(log_start),
                });
            }
            if Instant::now() > deadline {
                self.supervisor.kill()?;
                let log = self.folder.log_since(log_start);
                return Err(Error::NotReady {
                    program: PROGRAM,
                    after: READY_WITHIN,
                    log,
                });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// In a file, not on the command line: everybody on the machine can read command lines.
    fn configuration(&self, store: &Path) -> String {
        let Self {
            name,
            password,
            port,
            monitor,
            ..
        } = self;
        let store = serde_json::Value::from(store.to_string_lossy().into_owned());
        format!(
            "# Written at every start. Changes made here are lost.\n\
             server_name: \"{name}\"\n\
             listen: \"127.0.0.1:{port}\"\n\
             http: \"127.0.0.1:{monitor}\"\n\
             authorization {{ user: \"{USER}\", password: \"{password}\" }}\n\
             jetstream {{ store_dir: {store}, max_memory_store: 256MB, max_file_store: 10GB }}\n"
        )
    }

    /// Healthy, and really ours: a stranger may have taken the monitor's port before us.
    fn ready(&self) -> bool {
        let ours = self.get("/varz").is_some_and(|(_, body)| {
            serde_json::from_str::<serde_json::Value>(&body)
                .is_ok_and(|varz| varz["server_name"] == self.name.as_str())
        });
        ours && self.get("/healthz").is_some_and(|(status, _)| status == 200)
    }

    /// A minimal HTTP request; the answer ends with the connection.
    fn get(&self, path: &str) -> Option<(u16, String)> {
        let patience = Duration::from_secs(2);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.monitor));
        let mut stream = TcpStream::connect_timeout(&address, patience).ok()?;
        stream.set_read_timeout(Some(patience)).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.take(1 << 20).read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, body.to_owned()))
    }
}
