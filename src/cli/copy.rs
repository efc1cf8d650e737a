//! `imaged copy`

use imaged::client::{Client, Origin, Wanted};

use super::{args::Copy, output::Done, progress::Progress, put::receipt, talk::Talk};

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
    let wanted = Wanted { source, mode: args.mode, hash_algo };
    let request = Client::new_request_id();
    talk.mind(&request);
    let client = talk.client.with_request_id(&request);
    let progress = Progress::new(&args.id, None);
    let copied = client.copy(&args.store, &args.id, &wanted);
    let copied = progress.follow(&talk.client, &request, copied).await;
    drop(progress);
    receipt(talk, &copied?)
}
