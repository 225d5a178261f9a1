//! Pods that say who they are, and clients that ask.

use std::io::{BufRead, BufReader, Error, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use portolan_linux::netns::Named;

use super::{VIP, inside};

/// The port the pods listen on, and the one of the virtual service.
pub const PORT: u16 = 8080;

/// Starts a pod: greets every client with its address, gives back every line, and says `bye` when the client has
/// said all it wanted.
pub fn start(node: &Named, address: &str) {
    let listener = inside(node, || TcpListener::bind((address, PORT)).unwrap());
    let address = address.to_owned();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let address = address.clone();
            // A client that goes away early is no matter.
            thread::spawn(move || serve(client, &address).ok());
        }
    });
}

fn serve(client: TcpStream, address: &str) -> Result<(), Error> {
    let mut writer = client.try_clone()?;
    writeln!(writer, "{address}")?;
    for line in BufReader::new(client).lines() {
        writeln!(writer, "{}", line?)?;
    }
    writeln!(writer, "bye")
}

/// A client's connection to the virtual service.
pub struct Conversation {
    /// The pod at the other end.
    pub pod: String,
    reader: BufReader<TcpStream>,
}

impl Conversation {
    /// Connects and is greeted.
    pub fn begin(client: &Named) -> Result<Self, Error> {
        let to = SocketAddr::new(VIP.parse().unwrap(), PORT);
        let stream = inside(client, || TcpStream::connect_timeout(&to, Duration::from_secs(5)))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut conversation = Self { pod: String::new(), reader: BufReader::new(stream) };
        conversation.pod = conversation.hear()?;
        Ok(conversation)
    }

    /// Says a line and hears it again.
    pub fn say(&mut self, line: &str) -> Result<String, Error> {
        writeln!(self.reader.get_mut(), "{line}")?;
        self.hear()
    }

    /// Says that nothing more will be said, and hears the end.
    pub fn end(mut self) -> Result<String, Error> {
        self.reader.get_mut().shutdown(Shutdown::Write)?;
        self.hear()
    }

    /// Hears what comes unasked.
    pub fn wait(mut self) -> Result<String, Error> {
        self.hear()
    }

    fn hear(&mut self) -> Result<String, Error> {
        let mut line = String::new();
        match self.reader.read_line(&mut line)? {
            0 => Err(Error::other("hung up")),
            _ => Ok(line.trim_end().to_owned()),
        }
    }
}
