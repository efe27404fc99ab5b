//! The pages that a proxy has: one list, of which the router and whoever tests it read.

use hyper::Method;

macro_rules! pages {
    ($($(#[$doc:meta])* $page:ident = $method:ident $path:literal $secret:literal;)*) => {
        /// A page: a method and a path.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Page {
            $($(#[$doc])* $page,)*
        }

        impl Page {
            pub(crate) const ALL: &[Self] = &[$(Self::$page,)*];

            pub(crate) const fn method(self) -> Method {
                match self { $(Self::$page => Method::$method,)* }
            }

            pub(crate) const fn path(self) -> &'static str {
                match self { $(Self::$page => $path,)* }
            }

            const fn verb(self) -> &'static str {
                match self { $(Self::$page => stringify!($method),)* }
            }

            /// Whether asking tries something that people choose or type.
            const fn tries_secrets(self) -> bool {
                match self { $(Self::$page => $secret,)* }
            }
        }
    };
}

pages! {
    /// What the cluster is called, and how to log in.
    Ping = GET "/webapi/ping" false;
    /// The same.
    Find = GET "/webapi/find" false;
    /// A user logs in.
    Login = POST "/webapi/login" true;
    /// A host joins.
    Join = POST "/v1/webapi/host/credentials" false;
    /// What an invite is for; the token is in a header.
    ShowInvite = GET "/webapi/invite" true;
    /// The same; the token is in the body.
    Invite = POST "/webapi/invite" true;
    /// An invited user sets password and second factor.
    AcceptInvite = POST "/webapi/invite/accept" true;
}

impl Page {
    /// What is asked for, if there is such a page.
    pub(crate) fn of(method: &Method, path: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|page| page.path() == path && page.method() == *method)
    }

    /// Whether a request for this path counts as a guess, whatever its method is.
    pub(crate) fn guesses(path: &str) -> bool {
        Self::ALL.iter().any(|page| page.path() == path && page.tries_secrets())
    }
}

/// Method and path of every page that a proxy answers by itself.
pub fn pages() -> impl Iterator<Item = (&'static str, &'static str)> {
    Page::ALL.iter().map(|page| (page.verb(), page.path()))
}
