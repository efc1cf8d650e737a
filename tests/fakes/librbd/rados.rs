//! librados: connections and what is asked of a cluster.

use std::{
    collections::BTreeMap,
    ffi::{c_char, c_int},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
    },
};

use crate::{
    ClusterState,
    c::{Text, fill},
    cluster_of,
    errno::{ACCES, DQUOT, INVAL, NAMETOOLONG, NOENT, RANGE},
    lock,
    world::World,
};

/// Bytes of the whole cluster.
const TOTAL: u64 = 100 << 30;
/// Users that the cluster knows.
const USERS: [&str; 2] = ["admin", "glance"];
/// Options with their defaults.
const OPTIONS: [(&str, &str); 9] = [
    ("admin_socket", ""),
    ("client_mount_timeout", "300"),
    ("err_to_stderr", "true"),
    ("keyring", ""),
    ("log_file", ""),
    ("log_to_stderr", "true"),
    ("rados_mon_op_timeout", "0"),
    ("rados_osd_op_timeout", "0"),
    ("rbd_cache", "true"),
];

static CLIENTS: AtomicI64 = AtomicI64::new(4100);

/// A `rados_t`.
pub(crate) struct Client {
    user: String,
    number: i64,
    options: Mutex<BTreeMap<String, String>>,
    state: Mutex<Option<Arc<ClusterState>>>,
    connected: AtomicBool,
    pools: Arc<AtomicUsize>,
}

/// A `rados_ioctx_t`.
pub(crate) struct Io {
    pub(crate) state: Arc<ClusterState>,
    pub(crate) pool: String,
    number: i64,
    pub(crate) client: i64,
    pub(crate) full_try: Arc<AtomicBool>,
    /// Images that were opened with it.
    pub(crate) images: Arc<AtomicUsize>,
    pools: Arc<AtomicUsize>,
}

/// `struct rados_cluster_stat_t`.
#[repr(C)]
struct ClusterStat {
    kb: u64,
    kb_used: u64,
    kb_avail: u64,
    num_objects: u64,
}

impl Client {
    fn state(&self) -> Option<Arc<ClusterState>> {
        lock(&self.state).clone()
    }

    fn connected(&self) -> Option<Arc<ClusterState>> {
        self.state().filter(|_| self.connected.load(Ordering::SeqCst))
    }

    fn call(
        &self,
        name: &'static str,
        of: &str,
        work: impl FnOnce(&mut World) -> Result<i32, i32>,
    ) -> c_int {
        // 107: ENOTCONN
        self.connected().map_or(-107, |state| state.call(name, of, 0, work))
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rados_create(cluster: &mut *mut Client, id: Text) -> c_int {
    let options = OPTIONS.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    *cluster = Box::into_raw(Box::new(Client {
        user: id.get().unwrap_or_else(|| "admin".to_owned()),
        number: CLIENTS.fetch_add(1, Ordering::Relaxed),
        options: Mutex::new(options.collect()),
        state: Mutex::default(),
        connected: AtomicBool::new(false),
        pools: Arc::default(),
    }));
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rados_conf_read_file(cluster: &Client, path: Text) -> c_int {
    let Some(state) = cluster_of(&path.text()) else { return -NOENT };
    *lock(&cluster.state) = Some(Arc::clone(&state));
    state.call("rados_conf_read_file", "", 0, |_| Ok(0))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rados_conf_set(cluster: &Client, option: Text, value: Text) -> c_int {
    let mut options = lock(&cluster.options);
    let (option, value) = (option.text(), value.text());
    let Some(now) = options.get_mut(&option) else { return -NOENT };
    if option.ends_with("_timeout") && value.parse::<f64>().is_err() {
        return -INVAL;
    }
    *now = value;
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rados_conf_get(
    cluster: &Client,
    option: Text,
    buf: *mut c_char,
    len: usize,
) -> c_int {
    let options = lock(&cluster.options);
    let Some(value) = options.get(&option.text()) else { return -NOENT };
    // SAFETY: the caller vouches for its buffer.
    if unsafe { fill(buf, len, value) }.is_some() { 0 } else { -NAMETOOLONG }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rados_connect(cluster: &Client) -> c_int {
    let Some(state) = cluster.state() else { return -NOENT };
    let known = USERS.contains(&cluster.user.as_str());
    let answer =
        state.call("rados_connect", &cluster.user, 0, |_| if known { Ok(0) } else { Err(ACCES) });
    if answer == 0 {
        cluster.connected.store(true, Ordering::SeqCst);
        state.clusters.fetch_add(1, Ordering::SeqCst);
    }
    answer
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rados_shutdown(cluster: *mut Client) {
    // SAFETY: made by `rados_create`, and the caller gives it up.
    let client = unsafe { Box::from_raw(cluster) };
    let Some(state) = client.connected() else { return };
    state.gate("rados_shutdown", "", 0);
    let pools = client.pools.load(Ordering::SeqCst);
    if pools > 0 {
        state.breach(format!("shut down with {pools} pools"));
    }
    state.clusters.fetch_sub(1, Ordering::SeqCst);
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rados_get_instance_id(cluster: &Client) -> u64 {
    cluster.number.unsigned_abs()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rados_cluster_fsid(cluster: &Client, buf: *mut c_char, len: usize) -> c_int {
    let Some(state) = cluster.connected() else { return -107 };
    // SAFETY: the caller vouches for its buffer.
    let filled = unsafe { fill(buf, len, &state.fsid) };
    filled.and_then(|len| c_int::try_from(len).ok()).unwrap_or(-RANGE)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rados_cluster_stat(cluster: &Client, result: &mut ClusterStat) -> c_int {
    cluster.call("rados_cluster_stat", "", |world| {
        let pools = world.pools.values();
        let used: u64 = pools.clone().map(crate::world::Pool::used).sum();
        *result = ClusterStat {
            kb: TOTAL / 1024,
            kb_used: used / 1024,
            kb_avail: TOTAL.saturating_sub(used) / 1024,
            num_objects: pools.map(|pool| pool.parts().count() as u64).sum(),
        };
        Ok(0)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rados_pool_reverse_lookup(
    cluster: &Client,
    id: i64,
    buf: *mut c_char,
    maxlen: usize,
) -> c_int {
    cluster.call("rados_pool_reverse_lookup", "", |world| {
        let found = world.pools.iter().find(|(_, pool)| pool.number == id);
        let (name, _) = found.ok_or(NOENT)?;
        // SAFETY: the caller vouches for its buffer.
        let filled = unsafe { fill(buf, maxlen, name) };
        filled.and_then(|len| c_int::try_from(len).ok()).ok_or(RANGE)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rados_pool_lookup(cluster: &Client, pool_name: Text) -> i64 {
    let pool = pool_name.text();
    let mut number = 0;
    let answer = cluster.call("rados_pool_lookup", &pool, |world| {
        number = world.pool(&pool)?.number;
        Ok(0)
    });
    if answer == 0 { number } else { answer.into() }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rados_ioctx_get_id(io: &Io) -> i64 {
    io.number
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rados_wait_for_latest_osdmap(cluster: &Client) -> c_int {
    cluster.call("rados_wait_for_latest_osdmap", "", |_| Ok(0))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rados_ioctx_create(
    cluster: &Client,
    pool_name: Text,
    ioctx: &mut *mut Io,
) -> c_int {
    let Some(state) = cluster.connected() else { return -107 };
    let pool = pool_name.text();
    let mut number = 0;
    let answer = state.call("rados_ioctx_create", &pool, 0, |world| {
        number = world.pool(&pool)?.number;
        Ok(0)
    });
    if answer == 0 {
        cluster.pools.fetch_add(1, Ordering::SeqCst);
        state.pools.fetch_add(1, Ordering::SeqCst);
        *ioctx = Box::into_raw(Box::new(Io {
            state,
            pool,
            number,
            client: cluster.number,
            full_try: Arc::default(),
            images: Arc::default(),
            pools: Arc::clone(&cluster.pools),
        }));
    }
    answer
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rados_ioctx_destroy(io: *mut Io) {
    // SAFETY: made by `rados_ioctx_create`, and the caller gives it up.
    let io = unsafe { Box::from_raw(io) };
    io.state.gate("rados_ioctx_destroy", &io.pool, 0);
    let images = io.images.load(Ordering::SeqCst);
    if images > 0 {
        io.state.breach(format!("pool {} destroyed with {images} images", io.pool));
    }
    io.state.pools.fetch_sub(1, Ordering::SeqCst);
    io.pools.fetch_sub(1, Ordering::SeqCst);
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rados_set_pool_full_try(io: &Io) {
    io.full_try.store(true, Ordering::SeqCst);
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rados_read(
    io: &Io,
    oid: Text,
    buf: *mut c_char,
    len: usize,
    off: u64,
) -> c_int {
    let object = oid.text();
    io.state.call("rados_read", &object, off, |world| {
        let pool = world.pool(&io.pool)?;
        let content = if let Some(name) = object.strip_prefix("rbd_id.") {
            let id = pool.id_of(name)?;
            let mut content = u32::try_from(id.len()).unwrap_or(0).to_le_bytes().to_vec();
            content.extend_from_slice(id.as_bytes());
            content
        } else {
            pool.objects.get(&object).ok_or(NOENT)?.clone()
        };
        let from = usize::try_from(off).unwrap_or(usize::MAX);
        let found = content.get(from..).unwrap_or_default();
        let found = found.get(..len).unwrap_or(found);
        // SAFETY: no more than `len` bytes, which the caller has.
        unsafe { std::ptr::copy_nonoverlapping(found.as_ptr(), buf.cast(), found.len()) };
        c_int::try_from(found.len()).map_err(|_long| RANGE)
    })
}

/// `dir_list` of the class `rbd`, the only method that is called.
#[unsafe(no_mangle)]
unsafe extern "C" fn rados_exec(
    io: &Io,
    oid: Text,
    class: Text,
    method: Text,
    asked: *const u8,
    asked_len: usize,
    room: *mut c_char,
    room_len: usize,
) -> c_int {
    assert_eq!((&*class.text(), &*method.text()), ("rbd", "dir_list"));
    // SAFETY: the caller vouches for its buffer.
    let asked = unsafe { std::slice::from_raw_parts(asked, asked_len) };
    let Some((after, most)) = asked.get(4..).and_then(<[u8]>::split_last_chunk) else {
        return -INVAL;
    };
    let most = u64::from_le_bytes(*most);
    io.state.call("rados_exec", &oid.text(), most, |world| {
        let names = &world.pool(&io.pool)?.names;
        let later = names.iter().filter(|(name, _)| name.as_bytes() > after);
        let found: Vec<_> = later.take(usize::try_from(most).unwrap_or(usize::MAX)).collect();
        let number = |of: usize| u32::try_from(of).map(u32::to_le_bytes).map_err(|_large| RANGE);
        let mut told = number(found.len())?.to_vec();
        for text in found.into_iter().flat_map(|(name, id)| [name, id]) {
            told.extend_from_slice(&number(text.len())?);
            told.extend_from_slice(text.as_bytes());
        }
        if told.len() > room_len {
            return Err(RANGE);
        }
        // SAFETY: no more bytes than the caller has room for.
        unsafe { std::ptr::copy_nonoverlapping(told.as_ptr(), room.cast(), told.len()) };
        i32::try_from(told.len()).map_err(|_large| RANGE)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rados_write_full(io: &Io, oid: Text, buf: *const c_char, len: usize) -> c_int {
    let object = oid.text();
    io.state.call("rados_write_full", &object, len as u64, |world| {
        let pool = world.pool_mut(&io.pool)?;
        if pool.is_full() {
            return Err(DQUOT);
        }
        // SAFETY: the caller vouches for its buffer.
        let bytes = unsafe { std::slice::from_raw_parts(buf.cast::<u8>(), len) };
        pool.objects.insert(object.clone(), bytes.to_vec());
        Ok(0)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rados_remove(io: &Io, oid: Text) -> c_int {
    let object = oid.text();
    io.state.call("rados_remove", &object, 0, |world| {
        let pool = world.pool_mut(&io.pool)?;
        pool.objects.remove(&object).map(|_bytes| 0).ok_or(NOENT)
    })
}
