//! Every decision Portolan takes, pure.
