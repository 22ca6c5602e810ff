/* Files as the spool and the filesystem backend need them: whole or not at all, and on disk when it says so. */
#ifndef MON_FILES_H
#define MON_FILES_H

#include "buffer.h"

/* These give 0, else an errno. */

/* Writes all of it. Safe in a signal handler. */
int mon_write_all(int fd, const char *data, size_t len);
/* Adds what can be read up to the end. */
int mon_read_all(int fd, struct mon_buf *data);
/* Makes a folder and those above it; `durable`: their names are on disk then. */
int mon_make_folder(const char *folder, bool durable);
/* Has the names in a folder, or in the folder of `path`, on disk. */
int mon_sync_folder(const char *folder);
int mon_sync_folder_of(const char *path);
/* Puts a file of this content in place, on disk for good; written to `temporary` first. */
int mon_put_file(const char *path, const char *temporary, const char *data, size_t len);

/* Whether the open file is still the one of that name. */
bool mon_is_at(int fd, const char *path);

#endif
