//! What every process needs: configuration, telemetry, task groups, shutdown.
