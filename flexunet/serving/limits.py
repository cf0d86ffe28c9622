"""The numbers by which a server, its manifests, the graph and the client agree under load. serving/deploy/README.md has
their arithmetic; the tests compare the manifests with them."""

from typing import Final

# Rows that go through the model together, in any signature; the graph joins requests to so many and cuts larger ones.
BATCH_ROWS: Final = 16
# Batches at once, of each queue: one decodes while another is in the model.
BATCH_THREADS: Final = 2
# Batches that wait. 64 of 16 rows at 20 rows a second, two cores' worth of 512x512, are 51 s: within CLIENT_SECONDS.
QUEUED_BATCHES: Final = 64
# A request holds a thread until it is answered. 1,024 threads, the 64 * 16 requests of one row that fill the queue,
# would hold 1,024 images; 256 are four clients of 64 threads, and what comes beyond is told to come again.
GRPC_THREADS: Final = 256
# REST requests beyond these wait in the server, and the probes with them. More than the 66 batches that wait or are
# under way: a queue that is full of large requests refuses the next one at once, and no other queue forms before it.
REST_THREADS: Final = 256
# A client waits so long for an answer, all its attempts included.
CLIENT_SECONDS: Final = 60.0
# A gRPC connection's age when its client is told to make another: one that is open for ever stays with a pod that
# stops, and with one of two pods.
CONNECTION_SECONDS: Final = 30.0
