"""The numbers by which a server, its manifests, the graph and the client agree under load. serving/deploy/README.md has
their arithmetic; the tests compare the manifests with them."""

from typing import Final

# Rows that go through the model together, in any signature; the graph joins requests to so many and cuts larger ones.
BATCH_ROWS: Final = 16
# Batches at once: one decodes while another is in the model.
BATCH_THREADS: Final = 2
# Batches that wait. 64 of 16 rows at 20 rows a second, two cores' worth of 512x512, are 51 s: within CLIENT_SECONDS.
QUEUED_BATCHES: Final = 64
# A request holds a thread until it is answered. 1,024 threads, the 64 * 16 requests of one row that fill the queue,
# would hold 1,024 images; 256 are four clients of 64 threads, and what comes beyond is told to come again.
GRPC_THREADS: Final = 256
# REST requests beyond these wait in the server.
REST_THREADS: Final = 64
# A client waits so long for an answer, all its attempts included.
CLIENT_SECONDS: Final = 60.0
