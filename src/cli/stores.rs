//! `imaged stores`

use std::time::Duration;

use futures_util::future::join_all;
use imaged::client::{Health, Shown, Stores};

use super::{
    output::{Done, bytes, table},
    talk::Talk,
};

/// How long one store may take to tell its space.
const PATIENCE: Duration = Duration::from_secs(5);

/// Shows every store, each with its space if it tells in time.
pub(crate) async fn run(talk: &Talk) -> Done {
    let mut stores = talk.client.stores().await?;
    let looks = stores.iter().map(|store| {
        let look = talk.client.store(&store.id);
        async { tokio::time::timeout(PATIENCE, look).await.ok().and_then(Result::ok) }
    });
    let looked = join_all(looks).await;
    for (store, looked) in stores.iter_mut().zip(looked) {
        if let Some(looked) = looked {
            *store = looked;
        }
    }
    let rows: Vec<_> = stores.iter().map(row).collect();
    for unread in stores.iter().flat_map(|store| &store.unread_intents) {
        let of = |word: &Option<String>| word.clone().unwrap_or_else(|| "?".to_owned());
        talk.output.say(&format!(
            "the journal has an intent that this imaged cannot read, its id stays taken: file=`{}` \
             store=`{}` image=`{}` reason=`{}`",
            unread.file,
            of(&unread.store),
            of(&unread.image),
            unread.why
        ));
    }
    if !talk.output.json {
        for store in &stores {
            store.notes.iter().for_each(|note| talk.output.say(&format!("{}: {note}", store.id)));
        }
    }
    talk.output.answer(&Stores { stores }, |out| {
        table(out, &["NAME", "TYPE", "STATE", "DEFAULT", "FREE", "DESCRIPTION"], &rows)
    })
}

fn row(store: &Shown) -> Vec<String> {
    let state = match (store.state, store.read_only, &store.reason) {
        (Health::Up, true, _) => "up, read-only",
        (Health::Up, false, Some(_)) => "reading only",
        (Health::Up, false, None) => "up",
        (Health::Down, ..) => "down",
    };
    let free = store.capacity.and_then(|capacity| capacity.available);
    // What is wrong matters more than what it is for.
    let description = match (&store.reason, &store.description) {
        (Some(reason), _) => reason.clone(),
        (None, Some(description)) => description.clone(),
        (None, None) => String::new(),
    };
    vec![
        store.id.clone(),
        store.kind.clone(),
        state.to_owned(),
        if store.default { "yes" } else { "" }.to_owned(),
        free.map_or_else(|| "-".to_owned(), bytes),
        description,
    ]
}
