//! gRPC server and client plumbing: access control, deadlines, trace propagation, error to Status.
