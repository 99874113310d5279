//! Generated code only, one module for each protobuf package.

/// Routing rules as they travel.
pub mod routing {
    /// Version 1.
    pub mod v1 {
        #![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
        tonic::include_proto!("sidelane.routing.v1");
    }
}

/// Membership between sidecars and control.
pub mod control {
    /// Version 1.
    pub mod v1 {
        #![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
        tonic::include_proto!("sidelane.control.v1");
    }
}

/// The opening of a link between two sidecars.
pub mod peer {
    /// Version 1.
    pub mod v1 {
        #![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
        tonic::include_proto!("sidelane.peer.v1");
    }
}

/// What people and tools ask.
pub mod admin {
    /// Version 1.
    pub mod v1 {
        #![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
        tonic::include_proto!("sidelane.admin.v1");
    }
}

/// The SPIFFE Workload API, which sidecars and control call. The standard gives it no package.
pub mod spiffe {
    #![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
    tonic::include_proto!("_");
}

/// The descriptors of all but the last of these, with their options, as an encoded `FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.binpb"));
