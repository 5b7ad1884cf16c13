//! A load balancer inside an application: runs a configuration file until Ctrl-C, and prints what changes.
//!
//! It needs what `equipoise run` needs. Run it by `cargo run -p equipoise --example embedded -- FILE`.

use std::error::Error;
use std::path::Path;

use equipoise::events::Told;
use equipoise::{Balancer, Configuration};

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let file = std::env::args().nth(1).ok_or("the file is missing")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(Path::new(&file), "embedded", async {
        // That there is no more to wait for is an end, too.
        drop(tokio::signal::ctrl_c().await);
    }))
}

/// Runs a file as an instance, until something has come to pass.
pub(crate) async fn run(
    file: &Path,
    instance: &str,
    until: impl Future<Output = ()>,
) -> Result<(), Box<dyn Error>> {
    let text = std::fs::read_to_string(file)?;
    let configuration = Configuration::text(file.display().to_string(), text);
    let balancer = Balancer::builder(configuration).instance(instance).start().await?;
    println!("running; `equipoise --instance {instance} status` shows how it is");
    let mut events = balancer.events(0).await?;
    tokio::pin!(until);
    loop {
        let told = tokio::select! {
            told = events.next() => told,
            () = &mut until => break,
        };
        match told {
            Some(Told::Event(event)) => println!("{} {}", event.time, event.kind.name()),
            Some(Told::Lost(count)) => println!("{count} events were missed"),
            None => break,
        }
    }
    for service in balancer.status().await?.services {
        let backends = service.pools.iter().flat_map(|pool| &pool.backends);
        let flows: u64 = backends.map(|backend| backend.traffic.new_flows).sum();
        println!("{}: {flows} flows", service.name);
    }
    Ok(balancer.stop().await?)
}
