//! Starting and stopping servers blocks on files and processes; this carries it off the async threads.

use crate::Error;

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
        Err(e) => Err(Error::doing("finish: the async runtime is shutting down")(
            std::io::Error::other(e),
        )),
    }
}
