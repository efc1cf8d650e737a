//! libiscsi as its headers declare it. Kept by hand; `tests/abi` compares all of it with the installed
//! headers.
#![expect(missing_docs, reason = "the C headers document them")]
#![expect(non_camel_case_types, reason = "names are C's own")]

use std::ffi::{c_char, c_int, c_uchar, c_uint, c_void};

/// Known to C alone.
#[derive(Debug)]
#[repr(C)]
pub struct iscsi_context {
    _known_to_c: [u8; 0],
}

/// Known to C alone.
#[derive(Debug)]
#[repr(C)]
pub struct scsi_allocated_memory {
    _known_to_c: [u8; 0],
}

pub type iscsi_command_cb = Option<
    unsafe extern "C" fn(
        iscsi: *mut iscsi_context,
        status: c_int,
        command_data: *mut c_void,
        private_data: *mut c_void,
    ),
>;

pub const ISCSI_SESSION_NORMAL: c_uint = 2;

/// Longest name or password, in bytes. What is longer would be cut.
pub const MAX_STRING_SIZE: usize = 255;

pub const SCSI_STATUS_GOOD: c_int = 0;
pub const SCSI_STATUS_CHECK_CONDITION: c_int = 2;
pub const SCSI_STATUS_CONDITION_MET: c_int = 4;
pub const SCSI_STATUS_BUSY: c_int = 8;
pub const SCSI_STATUS_RESERVATION_CONFLICT: c_int = 0x18;
pub const SCSI_STATUS_TASK_SET_FULL: c_int = 0x28;
pub const SCSI_STATUS_TASK_ABORTED: c_int = 0x40;
pub const SCSI_STATUS_REDIRECT: c_int = 0x101;
pub const SCSI_STATUS_CANCELLED: c_int = 0x0f00_0000;
pub const SCSI_STATUS_ERROR: c_int = 0x0f00_0001;

pub const SCSI_SENSE_NOT_READY: c_uint = 2;
pub const SCSI_SENSE_UNIT_ATTENTION: c_uint = 6;
pub const SCSI_SENSE_COMMAND_ABORTED: c_uint = 0x0b;

pub const SCSI_RESIDUAL_NO_RESIDUAL: c_uint = 0;
pub const SCSI_RESIDUAL_UNDERFLOW: c_uint = 1;

#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct unmap_list {
    pub lba: u64,
    pub num: u32,
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct scsi_sense {
    pub error_type: c_uchar,
    pub key: c_uint,
    pub ascq: c_int,
    /// Three fields of one bit.
    pub _bits: u8,
    pub bit_pointer: c_uchar,
    pub field_pointer: u16,
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct scsi_data {
    pub size: c_int,
    pub data: *mut c_uchar,
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct scsi_iovec {
    pub iov_base: *mut c_void,
    pub iov_len: usize,
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct scsi_iovector {
    pub iov: *mut scsi_iovec,
    pub niov: c_int,
    pub nalloc: c_int,
    pub offset: usize,
    pub consumed: c_int,
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct scsi_task {
    pub status: c_int,
    pub cdb_size: c_int,
    pub xfer_dir: c_int,
    pub expxferlen: c_int,
    pub cdb: [c_uchar; 16],
    pub residual_status: c_uint,
    pub residual: usize,
    pub sense: scsi_sense,
    pub datain: scsi_data,
    pub mem: *mut scsi_allocated_memory,
    pub ptr: *mut c_void,
    pub itt: u32,
    pub cmdsn: u32,
    pub lun: u32,
    pub iovector_in: scsi_iovector,
    pub iovector_out: scsi_iovector,
}

#[link(name = "iscsi")]
unsafe extern "C" {
    pub fn iscsi_create_context(initiator_name: *const c_char) -> *mut iscsi_context;
    pub fn iscsi_destroy_context(iscsi: *mut iscsi_context) -> c_int;
    pub fn iscsi_set_isid_random(iscsi: *mut iscsi_context, rnd: u32, qualifier: u32) -> c_int;
    pub fn iscsi_set_targetname(iscsi: *mut iscsi_context, targetname: *const c_char) -> c_int;
    pub fn iscsi_set_session_type(iscsi: *mut iscsi_context, session_type: c_uint) -> c_int;
    pub fn iscsi_set_initiator_username_pwd(
        iscsi: *mut iscsi_context,
        user: *const c_char,
        passwd: *const c_char,
    ) -> c_int;
    pub fn iscsi_set_noautoreconnect(iscsi: *mut iscsi_context, state: c_int);
    pub fn iscsi_set_log_level(iscsi: *mut iscsi_context, level: c_int);

    pub fn iscsi_get_error(iscsi: *mut iscsi_context) -> *const c_char;
    pub fn iscsi_get_target_address(iscsi: *mut iscsi_context) -> *const c_char;
    pub fn iscsi_get_fd(iscsi: *mut iscsi_context) -> c_int;
    pub fn iscsi_which_events(iscsi: *mut iscsi_context) -> c_int;
    pub fn iscsi_service(iscsi: *mut iscsi_context, revents: c_int) -> c_int;
    pub fn iscsi_out_queue_length(iscsi: *mut iscsi_context) -> c_int;

    pub fn iscsi_connect_async(
        iscsi: *mut iscsi_context,
        portal: *const c_char,
        cb: iscsi_command_cb,
        private_data: *mut c_void,
    ) -> c_int;
    pub fn iscsi_login_async(
        iscsi: *mut iscsi_context,
        cb: iscsi_command_cb,
        private_data: *mut c_void,
    ) -> c_int;
    pub fn iscsi_logout_async(
        iscsi: *mut iscsi_context,
        cb: iscsi_command_cb,
        private_data: *mut c_void,
    ) -> c_int;

    pub fn iscsi_testunitready_task(
        iscsi: *mut iscsi_context,
        lun: c_int,
        cb: iscsi_command_cb,
        private_data: *mut c_void,
    ) -> *mut scsi_task;
    pub fn iscsi_inquiry_task(
        iscsi: *mut iscsi_context,
        lun: c_int,
        evpd: c_int,
        page_code: c_int,
        maxsize: c_int,
        cb: iscsi_command_cb,
        private_data: *mut c_void,
    ) -> *mut scsi_task;
    pub fn iscsi_readcapacity16_task(
        iscsi: *mut iscsi_context,
        lun: c_int,
        cb: iscsi_command_cb,
        private_data: *mut c_void,
    ) -> *mut scsi_task;
    pub fn iscsi_read16_task(
        iscsi: *mut iscsi_context,
        lun: c_int,
        lba: u64,
        datalen: u32,
        blocksize: c_int,
        rdprotect: c_int,
        dpo: c_int,
        fua: c_int,
        fua_nv: c_int,
        group_number: c_int,
        cb: iscsi_command_cb,
        private_data: *mut c_void,
    ) -> *mut scsi_task;
    pub fn iscsi_write16_task(
        iscsi: *mut iscsi_context,
        lun: c_int,
        lba: u64,
        data: *mut c_uchar,
        datalen: u32,
        blocksize: c_int,
        wrprotect: c_int,
        dpo: c_int,
        fua: c_int,
        fua_nv: c_int,
        group_number: c_int,
        cb: iscsi_command_cb,
        private_data: *mut c_void,
    ) -> *mut scsi_task;
    pub fn iscsi_writesame16_task(
        iscsi: *mut iscsi_context,
        lun: c_int,
        lba: u64,
        data: *mut c_uchar,
        datalen: u32,
        num_blocks: u32,
        anchor: c_int,
        unmap: c_int,
        wrprotect: c_int,
        group: c_int,
        cb: iscsi_command_cb,
        private_data: *mut c_void,
    ) -> *mut scsi_task;
    pub fn iscsi_unmap_task(
        iscsi: *mut iscsi_context,
        lun: c_int,
        anchor: c_int,
        group: c_int,
        list: *mut unmap_list,
        list_len: c_int,
        cb: iscsi_command_cb,
        private_data: *mut c_void,
    ) -> *mut scsi_task;
    pub fn iscsi_synchronizecache16_task(
        iscsi: *mut iscsi_context,
        lun: c_int,
        lba: u64,
        num_blocks: u32,
        syncnv: c_int,
        immed: c_int,
        cb: iscsi_command_cb,
        private_data: *mut c_void,
    ) -> *mut scsi_task;

    pub fn scsi_task_add_data_in_buffer(
        task: *mut scsi_task,
        len: c_int,
        buf: *mut c_uchar,
    ) -> c_int;
    pub fn scsi_free_scsi_task(task: *mut scsi_task);
    pub fn scsi_sense_key_str(key: c_int) -> *const c_char;
    pub fn scsi_sense_ascq_str(ascq: c_int) -> *const c_char;
}
