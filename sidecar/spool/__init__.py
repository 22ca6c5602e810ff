"""The append-only log on disk that every acknowledged event is in.

| module | what it holds |
| --- | --- |
| `format` | what stands in a segment file, byte by byte |
| `log` | the writing half for asyncio: `SpoolLog` with group commit, bounds and notification |
| `journal` | the writing half's core without threads: segments, rotation, failing disks, deletion |
| `recovery` | what happens to the newest segment at start-up |
| `admission` | the spool's configuration and bounds: high-water mark, hysteresis, shedding |
| `reader` | the reading half: `SpoolReader`, from any process, without the writer |
| `scan` | one segment file, record by record, past whatever is damaged |
| `damage` | what was found damaged, kept aside and counted |
| `segments` | names, order and ends of segment files |
| `lock` | one writer a folder |
| `identity` | the spool's id |
| `checkpoint` | how far each reader has come |
| `inspection` | looking into a spool from outside, for the command line |
| `search` | one event by its id |
| `quarantine` | events refused by the contract, with their reasons |
| `errors` | what can go wrong, as callers see it |
| `filesystem` | the only door to the disk; tests replace it |
"""
