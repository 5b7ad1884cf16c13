//! What a supervisor hears of an instance, by the protocol of `sd_notify(3)`.

use std::os::unix::net::UnixDatagram;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use equipoise_lab::topology::{Lab, Options};
use serde_json::Value;

use crate::balanced::{BINARY, Balancer, DEADLINE, TC, config};

/// Listens all the time, as a supervisor does.
fn listen(socket: UnixDatagram) -> Receiver<String> {
    let (tell, said) = mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length) = socket.recv(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if tell.send(text).is_err() {
                break;
            }
        }
    });
    said
}

/// Hears until something is said in which all of these stand; everything that was said up to it.
fn hear(said: &Receiver<String>, words: &[&str]) -> Vec<String> {
    let mut heard = Vec::new();
    loop {
        let said = said.recv_timeout(DEADLINE).unwrap_or_else(|_| panic!("{words:?} in {heard:?}"));
        let is_it = words.iter().all(|word| said.lines().any(|line| line.starts_with(word)));
        heard.push(said);
        assert!(heard.len() < 200, "{words:?} in {heard:?}");
        if is_it {
            return heard;
        }
    }
}

#[test]
fn supervisor_hears_of_start_reload_upgrade_life_and_end() {
    let lab = Lab::new(Options::default()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let socket = listen(socket);
    let text = config(&lab, TC.asked);
    let mut balancer = Balancer::prepare(&lab.balancer, &text);
    let environment = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "300000")];
    balancer.run_with(&environment);
    let pid = balancer.daemon.as_ref().unwrap().pid();
    let main = format!("MAINPID={pid}");
    hear(&socket, &["READY=1", &main, "STATUS=packets flow by generation 1 "]);
    // Twice within the time that it is given.
    let began = Instant::now();
    (0..6).for_each(|_| drop(hear(&socket, &["WATCHDOG=1"])));
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());

    balancer.write(&text.replace("weight = 50", "weight = 49"));
    let heard = hear(&socket, &["READY=1", "STATUS=packets flow by generation 2 "]);
    let reloading = |said: &&String| said.starts_with("RELOADING=1\nMONOTONIC_USEC=");
    assert_eq!(heard.iter().filter(reloading).count(), 1, "{heard:?}");

    let (code, said) = balancer.ask(&["--json", "upgrade", BINARY]);
    assert_eq!(code, 0, "{said}");
    let next = serde_json::from_str::<Value>(&said).unwrap()["pid"].clone();
    let main = format!("MAINPID={next}");
    // Of the one that goes, who alone is believed; and of the next one.
    let heard = hear(&socket, &["READY=1", &main]);
    let later = if heard.iter().any(|said| *said == format!("{main}\n")) {
        Vec::new()
    } else {
        hear(&socket, &[&main])
    };
    assert!(heard.len() + later.len() > 1, "{heard:?}");
    (0..3).for_each(|_| drop(hear(&socket, &["WATCHDOG=1"])));

    assert_eq!(balancer.ask(&["stop"]).0, 0);
    hear(&socket, &["STOPPING=1", "STATUS=everything is removed"]);
}
