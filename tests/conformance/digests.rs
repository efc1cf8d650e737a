//! What is told of an image's bytes is true of them: judged by Python's hashlib.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use imaged::{
    digest::{Algo, Choice},
    transfer::{Frame, Put},
    wire::digests::Promise,
};
use imaged_drivers::{ImageId, Kind, Location, window::CHUNK};

use crate::harness::stores::{
    Fixture, assert_free, begin,
    content::{Look, image, pieces},
    order, put,
};

/// The digests of `bytes` by every algorithm, in the order of [`Algo::ALL`], from hashlib.
fn oracle(bytes: &[u8]) -> Vec<String> {
    let script = "import hashlib, sys\nbytes = sys.stdin.buffer.read()\n\
                  for name in sys.argv[1:]: print(hashlib.new(name, bytes).hexdigest())";
    let mut python = Command::new("python3")
        .args(["-c", script])
        .args(Algo::ALL.map(Algo::name))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 is there to judge digests");
    python.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

pub(super) async fn what_is_recorded_is_what_was_stored(f: &Fixture) {
    for (look, size) in [(Look::Mixed, 2 * CHUNK + 99), (Look::Random, 0)] {
        let bytes = image(look, size, 11);
        let digests = oracle(&bytes);
        for (algo, wanted) in Algo::ALL.into_iter().zip(&digests) {
            let mut order = order(&f.id(), Some(size as u64));
            order.choice.algo = algo;
            let receipt = put(&f.store, order, &bytes).await.unwrap();
            assert_eq!(receipt.checksum.as_ref(), Some(&digests[0]), "{algo}");
            assert_eq!(receipt.hash_algo, algo.name());
            assert_eq!(receipt.hash_value.as_ref(), Some(wanted), "{algo}");
            assert_eq!((receipt.size, receipt.digest_job), (size as u64, None));
            assert_eq!(receipt.metadata.get("store"), Some(&"main".into()));
            let at: Location = receipt.location.parse().unwrap();
            if let Some(kept) = f.store.stat(&at).await.unwrap().digests {
                assert_eq!(
                    (kept.checksum.as_ref(), &kept.hash_value),
                    (Some(&digests[0]), wanted),
                    "{algo}"
                );
                assert_eq!(kept.hash_algo, algo.name());
            }
            f.remove(&at).await;
            let mut order = order_without(&f.id(), size);
            order.choice.algo = algo;
            let receipt = put(&f.store, order, &bytes).await.unwrap();
            assert_eq!(
                (receipt.checksum, receipt.hash_value.as_ref()),
                (None, Some(wanted)),
                "{algo}"
            );
            let at: Location = receipt.location.parse().unwrap();
            if let Some(kept) = f.store.stat(&at).await.unwrap().digests {
                assert_eq!((kept.checksum, &kept.hash_value), (None, wanted), "{algo}");
            }
            f.remove(&at).await;
        }
    }
}

/// An order of an image that gets no md5.
fn order_without(id: &ImageId, size: usize) -> Put {
    let mut order = order(id, Some(size as u64));
    order.choice.checksum = false;
    order
}

pub(super) async fn a_wrong_promise_leaves_nothing_and_a_right_one_is_kept(f: &Fixture) {
    let bytes = image(Look::Mixed, 300_000, 12);
    let digests = oracle(&bytes);
    let wrong = oracle(&bytes[1..]);
    for (n, algo) in Algo::ALL.into_iter().enumerate() {
        let promise =
            |of: &[String], n: usize| Promise { algo: Algo::ALL[n], value: of[n].clone() };
        for (known, checksum) in [(Some(300_000), true), (None, true), (None, false)] {
            for (promises, keeps) in [
                (vec![promise(&digests, 0)], true),
                (vec![promise(&digests, 0), promise(&digests, n)], true),
                (vec![promise(&wrong, 0)], false),
                (vec![promise(&wrong, n)], false),
                (vec![promise(&digests, 0), promise(&wrong, n)], false),
            ] {
                let id = f.id();
                let mut order = order(&id, known);
                (order.choice, order.promises) = (Choice { algo, checksum }, promises);
                let running = begin(&f.store, order);
                running.give(&pieces(&bytes, 65_536)).await;
                match running.end(Frame::End).await {
                    Ok(receipt) => {
                        assert!(keeps, "{algo}: a wrong digest was stored");
                        assert_eq!(receipt.checksum.is_some(), checksum, "{algo}");
                        f.remove(&receipt.location.parse().unwrap()).await;
                    }
                    Err(error) => {
                        assert!(!keeps, "{algo}: {error:?}");
                        assert_eq!(error.kind(), Kind::Mismatch, "{error:?}");
                    }
                }
            }
        }
    }
    assert_free(f, &f.id(), "after all").await;
}
