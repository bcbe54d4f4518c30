//! The launcher: the whole stack in one process, a demo, operator commands.
