//! Runs controller plugins: watches, queues, plans, fencing.
