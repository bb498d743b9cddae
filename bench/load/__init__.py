"""Several clients at once on one deployment: right answers, times, and what the server's processes use.

    python -m bench.load [--clients 4] [--seconds 60] [--workers 1] [--restart-every S] [--quick]
        [--json FILE]

Each client is a process with its own token, keys and uploaded model; even and odd ones have different
networks. It predicts 1 to 48 random samples a call, with verification, and compares every logit and label
with the polynomial model. The server's own metrics are compared with what the clients count, and the memory,
file handles, threads and disk of its processes are looked at once a second.

With `--restart-every` a calm run comes first; in the second one, one worker after the other is ended every so
many seconds, by SIGKILL and SIGTERM in turn, and each client's time a sample is compared with its own in the
calm run. Exit status 1 on a wrong or a lost answer, an alarm, a client or server that failed, metrics that
are not what clients count (calm runs), or resources that grow.
"""
