//! Connections and requests: where what is planned goes wrong.

use std::{fmt, pin::Pin, sync::Arc};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _, stream};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body as _, Frame, Incoming},
    header::{CONTENT_LENGTH, HeaderName, HeaderValue, RETRY_AFTER},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use super::{
    Service,
    blob::Blob,
    exchange::{Answer, Head},
    plan::{Fault, Plan, Seen},
};

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Shared<S: Service> {
    pub(super) service: Mutex<S>,
    pub(super) plan: Mutex<Plan<S::Call>>,
    /// How often the plan was forgotten, and with it what hangs let go.
    pub(super) healed: watch::Sender<u64>,
    /// Requests that hang.
    pub(super) held: watch::Sender<usize>,
    /// Whether connections are taken.
    pub(super) listens: watch::Sender<bool>,
    /// Changes with every request.
    pub(super) came: watch::Sender<usize>,
    /// Requests that are over.
    pub(super) over: watch::Sender<usize>,
    /// `HOST:PORT`.
    pub(super) address: String,
}

/// The connection ends here.
#[derive(Debug)]
struct Cut;

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection is to end here")
    }
}

impl std::error::Error for Cut {}

type Body = StreamBody<Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, Cut>> + Send>>>;

/// Serves connections, while the server is to be `up`, until that is dropped.
pub(super) async fn serve<S: Service>(
    first: TcpListener,
    shared: Arc<Shared<S>>,
    mut up: watch::Receiver<bool>,
) {
    let mut listener = Some(first);
    let mut connections = JoinSet::new();
    loop {
        let Some(listening) = &listener else {
            if up.wait_for(|up| *up).await.is_err() {
                return;
            }
            listener = Some(TcpListener::bind(&shared.address).await.unwrap());
            shared.listens.send_replace(true);
            continue;
        };
        tokio::select! {
            accepted = listening.accept() => if let Ok((stream, _)) = accepted {
                connections.spawn(converse(stream, Arc::clone(&shared)));
            },
            _ = connections.join_next(), if !connections.is_empty() => {}
            changed = up.wait_for(|up| !up) => {
                if changed.is_err() {
                    return;
                }
                drop(changed);
                connections.abort_all();
                listener = None;
                shared.listens.send_replace(false);
            }
        }
    }
}

async fn converse<S: Service>(stream: TcpStream, shared: Arc<Shared<S>>) {
    let _nodelay = stream.set_nodelay(true);
    let serve = service_fn(|request| {
        let shared = Arc::clone(&shared);
        async move { shared.answer(request).await }
    });
    // How it ends is for the client to judge.
    let _ended = http1::Builder::new().serve_connection(TokioIo::new(stream), serve).await;
}

/// A request that hangs, until this is dropped.
struct Held<S: Service>(Arc<Shared<S>>);

impl<S: Service> Drop for Held<S> {
    fn drop(&mut self) {
        self.0.held.send_modify(|held| *held -= 1);
    }
}

/// A request under way, until this is dropped.
struct UnderWay<S: Service>(Arc<Shared<S>>, S::Call);

impl<S: Service> Drop for UnderWay<S> {
    fn drop(&mut self) {
        self.0.plan.lock().end(self.1);
        self.0.over.send_modify(|over| *over += 1);
    }
}

impl<S: Service> Shared<S> {
    /// Waits until the plan is forgotten by which the request was begun.
    async fn hang(self: Arc<Self>, mut healed: watch::Receiver<u64>) {
        self.held.send_modify(|held| *held += 1);
        let held = Held(self);
        let _changed = healed.changed().await;
        drop(held);
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, Cut> {
        let head = Head::of(&request);
        let body = request.into_body();
        // What is asked may stand in the body, which then is read before anything goes wrong.
        let (body, told) = match S::ASKS_IN_BODIES {
            true => (None, self.receive(body, None).await?),
            false => (Some(body), Blob::default()),
        };
        let (call, key) = self.service.lock().call(&head, &told);
        let refusal = |status| self.service.lock().refusal(call, status);
        let (query, headers) = (head.query.clone(), head.headers.clone());
        let healed = self.healed.subscribe();
        let seen = Seen { call, key, query, headers, body: told.text(), fault: None };
        let fault = self.plan.lock().begin(seen);
        let _under_way = UnderWay(Arc::clone(&self), call);
        self.came.send_modify(|came| *came += 1);
        let body = match (fault, body) {
            (Some(Fault::CutBefore), _) => return Err(Cut),
            (Some(Fault::Early(status)), _) => {
                let answer = refusal(status).with("connection", "close");
                return Ok(response(answer, &head, None, &self));
            }
            (_, Some(body)) => self.receive(body, fault).await?,
            (Some(Fault::CutMiddle), None) if told.len() > 0 => return Err(Cut),
            (Some(Fault::StallReading), None) if told.len() > 0 => {
                Arc::clone(&self).hang(healed).await;
                return Err(Cut);
            }
            (_, None) => told,
        };
        let uploads = body.len() > 0;
        let (body, wrong) = match fault {
            Some(Fault::WrongByte) if uploads => (body.with_a_wrong_byte(), false),
            _ => (body, fault == Some(Fault::WrongByte)),
        };
        let mut answer = match fault {
            Some(Fault::Status(status)) => refusal(status),
            Some(Fault::Later(status, seconds)) => {
                refusal(status).with(RETRY_AFTER.as_str(), seconds)
            }
            Some(Fault::ErrorIn200) => Answer { status: 200, ..refusal(500) },
            Some(Fault::Hang) => {
                Arc::clone(&self).hang(healed).await;
                return Err(Cut);
            }
            Some(Fault::Late) => {
                // On a task of its own: it is done also when nobody waits any more.
                let (this, head, healed) = (Arc::clone(&self), head.clone(), healed.clone());
                let late = tokio::spawn(async move {
                    Arc::clone(&this).hang(healed).await;
                    this.service.lock().answer(call, &head, body, &this.address)
                });
                late.await.map_err(|_ended| Cut)?
            }
            _ => self.service.lock().answer(call, &head, body, &self.address),
        };
        match fault {
            Some(Fault::CutAfter) => return Err(Cut),
            Some(Fault::Silent) => Arc::clone(&self).hang(healed).await,
            _ => {}
        }
        if wrong {
            answer.body = answer.body.with_a_wrong_byte();
        }
        let fault = fault.filter(|fault| *fault != Fault::CutMiddle || !uploads);
        Ok(response(answer, &head, fault, &self))
    }

    /// The body of a request.
    async fn receive(
        self: &Arc<Self>,
        mut body: Incoming,
        fault: Option<Fault>,
    ) -> Result<Blob, Cut> {
        let length = body.size_hint().exact();
        let middle = length.unwrap_or(2).div_ceil(2);
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_gone| Cut)?;
            let Ok(piece) = frame.into_data() else { continue };
            bytes.extend_from_slice(&piece);
            if bytes.len() as u64 >= middle {
                match fault {
                    Some(Fault::CutMiddle) => return Err(Cut),
                    Some(Fault::StallReading) => {
                        Arc::clone(self).hang(self.healed.subscribe()).await;
                        return Err(Cut);
                    }
                    _ => {}
                }
            }
        }
        Ok(bytes.freeze().into())
    }
}

/// An answer as it is sent, with what goes wrong on its way.
fn response<S: Service>(
    answer: Answer,
    head: &Head,
    fault: Option<Fault>,
    shared: &Arc<Shared<S>>,
) -> Response<Body> {
    let length = answer.length.unwrap_or_else(|| answer.body.len());
    let body = if head.method == Method::HEAD { Blob::default() } else { answer.body };
    let sent = body.len();
    let pieces = |blob: Blob| stream::iter(blob.0.into_iter().map(|piece| Ok(Frame::data(piece))));
    let cut = stream::once(async { Err(Cut) });
    let body: Pin<Box<dyn Stream<Item = _> + Send>> = match fault {
        // What follows the half that is sent is awaited, so that half is on its way.
        Some(Fault::Short | Fault::CutMiddle) if sent > 0 => {
            let half = pieces(body.slice(0..sent / 2));
            let pause = stream::once(tokio::task::yield_now()).filter_map(async |()| None);
            Box::pin(half.chain(pause).chain(cut))
        }
        Some(Fault::Stall) => {
            let hang = stream::once(Arc::clone(shared).hang(shared.healed.subscribe()))
                .filter_map(async |()| None);
            Box::pin(pieces(body.slice(0..sent / 2)).chain(hang).chain(cut))
        }
        _ => Box::pin(pieces(body)),
    };
    let mut response = Response::new(StreamBody::new(body));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap();
    let headers = response.headers_mut();
    for (name, value) in answer.headers {
        let name: HeaderName = name.parse().unwrap();
        headers.append(name, HeaderValue::from_str(&value).unwrap());
    }
    if answer.status != 204 {
        headers.insert(CONTENT_LENGTH, length.into());
    }
    response
}
