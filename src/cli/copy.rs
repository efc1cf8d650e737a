//! `imaged copy`

use imaged::client::{Client, Origin, Wanted};

use super::{
    args::Copy,
    output::{Done, Failure},
    progress::Progress,
    put::{receipt, results},
    talk::Talk,
};

/// Makes an image from another or from a volume.
pub(crate) async fn run(talk: &Talk, args: &Copy) -> Done {
    let mut source =
        Origin { location: args.from.clone(), store: args.from_store.clone(), ..Origin::default() };
    // A volume in Ceph is in a pool, one of Cinder's has a bare id.
    match &args.from_volume {
        Some(volume) if volume.contains('/') => source.rbd_volume = Some(volume.clone()),
        volume => source.cinder_volume.clone_from(volume),
    }
    let hash_algo = args.hash_algo.map(|algo| algo.to_string());
    let (store, id) = words(args)?;
    let (stores, all_or_none) = (args.stores.clone(), args.all_or_none);
    let wanted = Wanted { source, mode: args.mode, hash_algo, stores, all_or_none };
    let request = Client::new_request_id();
    talk.mind(&request);
    let client = talk.client.with_request_id(&request);
    let progress = Progress::new(id, None);
    match store {
        Some(store) => {
            let copied = client.copy(store, id, &wanted);
            let copied = progress.follow(&talk.client, &request, copied).await;
            drop(progress);
            receipt(talk, &copied?)
        }
        None => {
            let copied = client.copy_to_all(id, &wanted);
            let copied = progress.follow(&talk.client, &request, copied).await;
            drop(progress);
            results(talk, &copied?)
        }
    }
}

/// What the words of the command mean: STORE ID, or ID if there is a `--store`.
fn words(args: &Copy) -> Result<(Option<&str>, &str), Failure> {
    match (args.stores.as_slice(), args.words.as_slice()) {
        ([], [store, id]) => Ok((Some(store), id)),
        ([], _) => Err(Failure::usage(
            "name the store and the image's id: imaged copy STORE ID, or imaged copy --store \
             STORE... ID",
        )),
        (_, [id]) => Ok((None, id)),
        (_, _) => Err(Failure::usage(
            "with --store the only word is the image's id: write the store before it as --store too",
        )),
    }
}
