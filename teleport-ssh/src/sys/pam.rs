//! The host's PAM library, loaded where it is needed and nowhere else: a process that never calls [`Library::load`] needs none.
//!
//! Modules of PAM are code of the host's administrator that may do anything to the process that calls them: change its limits, leave
//! threads and descriptors, hang, or crash. So this is for processes that do nothing else ([`crate::pam`]).

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::{Mutex, PoisonError};

/// What Linux-PAM and OpenPAM agree on is not much; these are the numbers of Linux-PAM.
const SUCCESS: c_int = 0;
const BUFFER_ERROR: c_int = 5;
const CONVERSATION_ERROR: c_int = 19;
const ERROR_MESSAGE: c_int = 3;
const TEXT_INFO: c_int = 4;
const ESTABLISH: c_int = 2;
const DELETE: c_int = 4;

/// Messages of one session, and the bytes of one: what is beyond is dropped.
const MAX_MESSAGES: usize = 64;
const MAX_MESSAGE: usize = 4096;
/// Variables of one session.
const MAX_VARIABLES: usize = 1024;

type Handle = *mut c_void;
type Talk = extern "C" fn(c_int, *const *const Message, *mut *mut Response, *mut c_void) -> c_int;
type Start = unsafe extern "C" fn(*const c_char, *const c_char, *const Conversation, *mut Handle) -> c_int;
type StartIn = unsafe extern "C" fn(
    *const c_char,
    *const c_char,
    *const Conversation,
    *const c_char,
    *mut Handle,
) -> c_int;
type WithFlags = unsafe extern "C" fn(Handle, c_int) -> c_int;
type SetItem = unsafe extern "C" fn(Handle, c_int, *const c_void) -> c_int;
type PutVariable = unsafe extern "C" fn(Handle, *const c_char) -> c_int;
type Variables = unsafe extern "C" fn(Handle) -> *mut *mut c_char;
type Describe = unsafe extern "C" fn(Handle, c_int) -> *const c_char;

#[repr(C)]
struct Message {
    style: c_int,
    text: *const c_char,
}

#[repr(C)]
struct Response {
    text: *mut c_char,
    code: c_int,
}

#[repr(C)]
struct Conversation {
    talk: Talk,
    heard: *const Heard,
}

/// What modules have said to the user.
type Heard = Mutex<Vec<String>>;

/// PAM cannot be used here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoLibrary {
    #[error("libpam cannot be loaded: {0}")]
    Load(String),
    #[error("libpam has no {0}")]
    Symbol(&'static str),
}

/// PAM says no.
#[derive(Debug, thiserror::Error)]
#[error("{call}: {said} ({code})")]
pub(crate) struct PamError {
    call: &'static str,
    said: String,
    code: c_int,
}

/// An item of a session.
#[derive(Clone, Copy, Debug)]
#[repr(i32)]
pub(crate) enum Item {
    Terminal = 3,
    RemoteHost = 4,
    RemoteUser = 8,
}

/// The library.
pub(crate) struct Library {
    start: Start,
    start_in: Option<StartIn>,
    end: WithFlags,
    set_item: SetItem,
    account: WithFlags,
    credentials: WithFlags,
    open: WithFlags,
    close: WithFlags,
    put_variable: PutVariable,
    variables: Variables,
    describe: Describe,
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Library").finish_non_exhaustive()
    }
}

impl Library {
    /// Loads it, for as long as this process lives.
    pub(crate) fn load() -> Result<Self, NoLibrary> {
        // SAFETY: the name ends in NUL; what the library does when it is loaded, the administrator of the host answers for.
        let library = unsafe { libc::dlopen(c"libpam.so.0".as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
        if library.is_null() {
            return Err(NoLibrary::Load(loader_says()));
        }
        macro_rules! symbol {
            ($name:literal as $kind:ty) => {{
                // SAFETY: the handle is the one that was just opened, and is never closed; the name ends in NUL.
                let found = unsafe { libc::dlsym(library, concat!($name, "\0").as_ptr().cast()) };
                // SAFETY: a pointer to the function of this name has the size of a function pointer, and is one unless it is null,
                // which is `None`. The type is that of the library's headers.
                unsafe { std::mem::transmute::<*mut c_void, Option<$kind>>(found) }
            }};
        }
        macro_rules! needed {
            ($name:literal as $kind:ty) => {
                symbol!($name as $kind).ok_or(NoLibrary::Symbol($name))?
            };
        }
        Ok(Self {
            start: needed!("pam_start" as Start),
            start_in: symbol!("pam_start_confdir" as StartIn),
            end: needed!("pam_end" as WithFlags),
            set_item: needed!("pam_set_item" as SetItem),
            account: needed!("pam_acct_mgmt" as WithFlags),
            credentials: needed!("pam_setcred" as WithFlags),
            open: needed!("pam_open_session" as WithFlags),
            close: needed!("pam_close_session" as WithFlags),
            put_variable: needed!("pam_putenv" as PutVariable),
            variables: needed!("pam_getenvlist" as Variables),
            describe: needed!("pam_strerror" as Describe),
        })
    }
}

fn loader_says() -> String {
    // SAFETY: gives null or a text that lives until the next call of the loader in this thread.
    unsafe {
        let said = libc::dlerror();
        if said.is_null() { String::new() } else { CStr::from_ptr(said).to_string_lossy().into_owned() }
    }
}

/// One login, from the question whether it may be to its end.
#[derive(Debug)]
pub(crate) struct Transaction {
    library: Library,
    handle: Handle,
    /// PAM has pointers to both.
    _conversation: Box<Conversation>,
    heard: Box<Heard>,
    last: c_int,
}

impl fmt::Debug for Conversation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conversation").finish_non_exhaustive()
    }
}

impl Transaction {
    /// Begins. The files of services are in `directory`, or where the host has them.
    pub(crate) fn start(
        library: Library,
        service: &str,
        login: &str,
        directory: Option<&Path>,
    ) -> Result<Self, PamError> {
        let bad = |call| PamError { call, said: "a text with a zero byte".to_owned(), code: BUFFER_ERROR };
        let service = CString::new(service).map_err(|_| bad("pam_start"))?;
        let login = CString::new(login).map_err(|_| bad("pam_start"))?;
        let heard: Box<Heard> = Box::default();
        let conversation = Box::new(Conversation { talk, heard: &raw const *heard });
        let mut handle: Handle = ptr::null_mut();
        let code = match (directory, library.start_in) {
            (None, _) => {
                // SAFETY: texts that end in NUL; the conversation outlives the handle, for the transaction has both.
                unsafe {
                    (library.start)(
                        service.as_ptr(),
                        login.as_ptr(),
                        &raw const *conversation,
                        &raw mut handle,
                    )
                }
            }
            (Some(directory), Some(start_in)) => {
                let directory =
                    CString::new(directory.as_os_str().as_bytes()).map_err(|_| bad("pam_start_confdir"))?;
                // SAFETY: as above; the library copies the text.
                unsafe {
                    start_in(
                        service.as_ptr(),
                        login.as_ptr(),
                        &raw const *conversation,
                        directory.as_ptr(),
                        &raw mut handle,
                    )
                }
            }
            (Some(_), None) => {
                let said = "this libpam takes no other directory".to_owned();
                return Err(PamError { call: "pam_start_confdir", said, code: SUCCESS });
            }
        };
        if code != SUCCESS || handle.is_null() {
            return Err(PamError { call: "pam_start", said: "cannot begin".to_owned(), code });
        }
        Ok(Self { library, handle, _conversation: conversation, heard, last: SUCCESS })
    }

    /// Tells modules something of the session.
    pub(crate) fn set(&mut self, item: Item, value: &str) -> Result<(), PamError> {
        let Ok(value) = CString::new(value) else { return Ok(()) };
        // SAFETY: the handle is open; these items are texts, which the library copies.
        let code = unsafe { (self.library.set_item)(self.handle, item as c_int, value.as_ptr().cast()) };
        self.done("pam_set_item", code)
    }

    /// Sets a variable that modules see.
    pub(crate) fn put_variable(&mut self, name: &str, value: &str) -> Result<(), PamError> {
        let Ok(entry) = CString::new(format!("{name}={value}")) else { return Ok(()) };
        // SAFETY: the handle is open; the library copies the text.
        let code = unsafe { (self.library.put_variable)(self.handle, entry.as_ptr()) };
        self.done("pam_putenv", code)
    }

    /// Asks whether the account may log in now.
    pub(crate) fn account(&mut self) -> Result<(), PamError> {
        let call = self.library.account;
        self.call("pam_acct_mgmt", call, 0)
    }

    /// Has modules give the process what the account's processes have.
    pub(crate) fn establish_credentials(&mut self) -> Result<(), PamError> {
        let call = self.library.credentials;
        self.call("pam_setcred", call, ESTABLISH)
    }

    /// Opens the session.
    pub(crate) fn open(&mut self) -> Result<(), PamError> {
        let call = self.library.open;
        self.call("pam_open_session", call, 0)
    }

    /// Closes the session, and takes back what `establish_credentials` gave.
    pub(crate) fn close(&mut self) -> Result<(), PamError> {
        let (close, credentials) = (self.library.close, self.library.credentials);
        let closed = self.call("pam_close_session", close, 0);
        let _ = self.call("pam_setcred", credentials, DELETE);
        closed
    }

    /// The variables that modules have set, as `NAME=value`.
    pub(crate) fn variables(&self) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        // SAFETY: the handle is open. The list ends in null; list and texts were made by `malloc` and are the caller's.
        unsafe {
            let list = (self.library.variables)(self.handle);
            if list.is_null() {
                return all;
            }
            let mut at = list;
            while !(*at).is_null() {
                if all.len() < MAX_VARIABLES {
                    all.push(CStr::from_ptr(*at).to_bytes().to_vec());
                }
                libc::free((*at).cast());
                at = at.add(1);
            }
            libc::free(list.cast());
        }
        all
    }

    /// What modules have said since the last time.
    pub(crate) fn heard(&self) -> Vec<String> {
        std::mem::take(&mut *self.heard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn call(&mut self, name: &'static str, call: WithFlags, flags: c_int) -> Result<(), PamError> {
        // SAFETY: the handle is open, and the conversation lives.
        let code = unsafe { call(self.handle, flags) };
        self.done(name, code)
    }

    fn done(&mut self, call: &'static str, code: c_int) -> Result<(), PamError> {
        self.last = code;
        if code == SUCCESS {
            return Ok(());
        }
        // SAFETY: the handle is open; the library gives null or a text that lives as long as the library.
        let said = unsafe {
            let said = (self.library.describe)(self.handle, code);
            if said.is_null() { String::new() } else { CStr::from_ptr(said).to_string_lossy().into_owned() }
        };
        Err(PamError { call, said, code })
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        // SAFETY: the handle is open, and nobody uses it after this.
        unsafe { (self.library.end)(self.handle, self.last) };
    }
}

/// What modules say is kept; what they ask, nobody answers.
extern "C" fn talk(
    count: c_int,
    messages: *const *const Message,
    answers: *mut *mut Response,
    heard: *mut c_void,
) -> c_int {
    let Ok(count) = usize::try_from(count) else { return CONVERSATION_ERROR };
    if count == 0 || count > MAX_MESSAGES || messages.is_null() || answers.is_null() || heard.is_null() {
        return CONVERSATION_ERROR;
    }
    // SAFETY: PAM gives `count` pointers to messages with texts that end in NUL, and a place for one pointer. The last pointer is the one
    // that the conversation was made with, which lives as long as the transaction. PAM frees the answers, so they are `calloc`'s.
    unsafe {
        let heard = &*heard.cast_const().cast::<Heard>();
        for at in 0..count {
            let message = *messages.add(at);
            if message.is_null() || !matches!((*message).style, TEXT_INFO | ERROR_MESSAGE) {
                return CONVERSATION_ERROR;
            }
            if !(*message).text.is_null() {
                let text = CStr::from_ptr((*message).text).to_bytes();
                let text = text.get(..MAX_MESSAGE).unwrap_or(text);
                let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
                if heard.len() < MAX_MESSAGES {
                    heard.push(String::from_utf8_lossy(text).into_owned());
                }
            }
        }
        let made: *mut Response = libc::calloc(count, size_of::<Response>()).cast();
        if made.is_null() {
            return BUFFER_ERROR;
        }
        *answers = made;
    }
    SUCCESS
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    /// What is said is heard; a question is an error, and whatever comes with it is not answered.
    #[test]
    fn modules_may_speak_and_not_ask() {
        let heard = Heard::default();
        let say = |styles: &[c_int]| {
            let messages: Vec<Message> =
                styles.iter().map(|style| Message { style: *style, text: c"text".as_ptr() }).collect();
            let pointers: Vec<*const Message> = messages.iter().map(ptr::from_ref).collect();
            let mut answers: *mut Response = ptr::null_mut();
            let count = c_int::try_from(styles.len()).unwrap();
            let data = (&raw const heard).cast_mut().cast();
            let code = talk(count, pointers.as_ptr(), &raw mut answers, data);
            let answered = !answers.is_null();
            // SAFETY: made by `calloc`, or null.
            unsafe { libc::free(answers.cast()) };
            (code, answered)
        };
        assert_eq!(say(&[TEXT_INFO, ERROR_MESSAGE]), (SUCCESS, true));
        assert_eq!(heard.lock().unwrap().len(), 2);
        for question in [1, 2, 5, 7] {
            assert_eq!(say(&[question]), (CONVERSATION_ERROR, false));
        }
        assert_eq!(say(&[]), (CONVERSATION_ERROR, false));
        assert_eq!(say(&[TEXT_INFO; 65]), (CONVERSATION_ERROR, false));
    }
}
