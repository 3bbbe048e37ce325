"""The server: jobs over HTTP that are kept whatever dies. It imports `graph` and nothing else of ours, and never torch.

The trip of a job through the rooms:

1. `api` takes a request: counted, guarded (Host, Origin, sizes), its token known, its handler called. A document is read into a
   tree with places, within bounds, and checked with its parameters by `graph`, in a thread: every problem at once, or none.
   What files it names, `files.resolving` finds: uploads by content (`files.uploads`), bundled files, plain names in folders.
2. `jobs` keeps it. `jobs.store` writes the row, its event and its idempotency key in one transaction of one writer thread
   (`jobs.database`), which commits many together, synced to the disk. Then, and not before, the answer is 202.
3. `workers.supervisor` keeps a process alive for each device. An idle one has it claim the job whose turn it is: highest
   priority, then the owner served longest ago (`jobs.turns`). `jobs.transitions` is where every change of state is made, and
   `jobs.states` says which there are. `workers.attempt` gives the job to the process over a socket and follows it.
4. In the worker's process `workers.worker` runs it through a Runner, which is passed in (`cli` makes it of its engine). What
   the run tells comes back as messages (`workers.messages`) and becomes numbered events (`jobs.eventlog`), which any number of
   watchers follow, from any point: over HTTP by `api.event_routes`, in Python by `client`.
5. A worker that dies, hangs or takes too much costs one attempt; the job waits for the next one, or is quarantined after two.
   A server that dies finds its running jobs when it opens the store, and lets them run again.
6. `jobs.publishing` makes the outputs durable and moves them to their place by one rename; then the row says succeeded. The
   commit that ends a job also owes its webhook a call, which `webhooks` makes, signed, at least once.
7. `jobs.retention` and `files.sweeping` throw away what is past its age or too much.

Two invariants hold it together. A change counts once it is committed, and is conditional on the state and the attempt that it
found: so a late word of a dead attempt changes nothing, and whatever is killed, the store tells what is true. And nothing
blocks the event loop: documents, files and SQLite are for threads, tensors for workers.

The composition root is `cli.serving`; what a server allows is in `api.settings`, `jobs.values.QueueLimits`,
`workers.process.WorkerLimits` and the policies of retention.
"""
