/* The folder for what can't be delivered now: one file a batch, written to last, claimed by rename; see SPOOL_FORMAT.md. */
#ifndef MON_SPOOL_H
#define MON_SPOOL_H

#include <pthread.h>

#include "batch.h"

struct mon_spool;

/* This process's part of the folder, and its view of the rest; NULL without memory. */
struct mon_spool *mon_spool_new(const char *folder, const char *emitter_id);
const char *mon_spool_folder(const struct mon_spool *spool);

/* Puts a batch on disk, for good when this returns 0; else an errno. */
int mon_spool_write(struct mon_spool *spool, const struct mon_batch *batch);
/* The name of this process's file whose first event has that number. */
enum { MON_SPOOL_NAME = 128 };
void mon_spool_name(const struct mon_spool *spool, uint64_t first_seq, char name[MON_SPOOL_NAME]);
/* Keeps what was refused as `<name>.refused`, where nobody replays it. */
int mon_spool_set_aside(struct mon_spool *spool, const char *name, const struct mon_buf *body);

/* Names of files, in the order in which to replay them. */
struct mon_names {
    char **list;
    size_t count;
};

/* What this process wrote and what, as far as it knows, still waits. */
int mon_spool_own(struct mon_spool *spool, struct mon_names *names);
/* What dead processes left, and claims that dead claimers left. Locks that guard nothing are removed. */
int mon_spool_orphans(struct mon_spool *spool, struct mon_names *names);
void mon_names_free(struct mon_names *names);

struct mon_claim {
    struct mon_spool *spool;
    int fd;
    char *base;    /* the file's name while nobody claims it */
    char *claimed; /* its name now */
    struct mon_batch *batches;
};

/* Makes a file ours to replay: 0, ENOENT when somebody else has it or it is gone, or another errno. */
int mon_spool_claim(struct mon_spool *spool, const char *name, struct mon_claim *claim);
/* Its events are delivered: deletes it. */
void mon_claim_done(struct mon_claim *claim);
/* Lets it wait for another try. */
void mon_claim_return(struct mon_claim *claim);
/* Keeps it aside for a person to look at. */
void mon_claim_refuse(struct mon_claim *claim);
/* The file's name while nobody claims it, without its folder; and the number in it. */
const char *mon_claim_name(const struct mon_claim *claim);
uint64_t mon_claim_number(const struct mon_claim *claim);

/* The end of the owner: what it left may be taken by anybody. */
void mon_spool_close(struct mon_spool *spool);
/* In a forked child: closes the handles and lets the locks be, which are the parent's. */
void mon_spool_forget(struct mon_spool *spool);
void mon_spool_free(struct mon_spool *spool);

/* The parts of a spool file's name: the owner's `<emitter id>.<pid>`, and who claimed it (0: nobody). False when it is none. */
struct mon_spool_name {
    size_t owner_len;
    size_t base_len;
    bool torn;
    long claimer;
};
bool mon_spool_parse_name(const char *name, struct mon_spool_name *parts);

#endif
