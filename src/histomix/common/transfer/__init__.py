"""Bytes from elsewhere to this disk: one engine for slides at addresses and for public cohorts.

`store` says what a source is and what it tells of a file, `web` is one answer of a web server, `part` what has arrived
so far, `fetch` brings one file (resumed, tried again, held to its digest, moved into place), `digests` are the digests
that sources publish, and `download` finds or fetches one file of a public cohort. `addresses` and `remote_names` say
where the program may go, and what a name from elsewhere may be called here.
"""
