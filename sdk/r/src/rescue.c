/* SIGTERM, which would end R at once: what is in memory goes to disk first, with nothing but async-signal-safe calls. */
#include "emitter.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST_PLACES = 16, NAME_BYTES = 4096 };

/* Where files go: a folder, and the start of their names, up to the number. */
typedef struct {
    char folder[NAME_BYTES];
    char start[NAME_BYTES];
} Place;

static Place places[MOST_PLACES];
static int place_count;
static bool counts_apart; /* files are numbered by `next_number`, not by the events' own numbers */
static double next_number;
static Emitter *volatile current;
static volatile sig_atomic_t changing, asked;

/* What was taken out of the queue and is on its way. */
static SEXP in_hand;
static double in_hand_number;

static void put_name(char *to, const char *start, double number, const char *end)
{
    char digits[21];
    unsigned long long rest = (unsigned long long)number;
    for (int i = 19; i >= 0; i--, rest /= 10)
        digits[i] = (char)('0' + rest % 10);
    size_t length = strlen(start);
    memcpy(to, start, length);
    memcpy(to + length, digits, 20);
    memcpy(to + length + 20, end, strlen(end) + 1);
}

static bool put_bytes(int fd, const char *data, size_t length)
{
    while (length > 0) {
        ssize_t written = write(fd, data, length);
        if (written < 0 && errno != EINTR)
            return false;
        if (written > 0) {
            data += written;
            length -= (size_t)written;
        }
    }
    return true;
}

static void make_folders(const char *folder)
{
    char path[NAME_BYTES];
    size_t length = strlen(folder);
    memcpy(path, folder, length + 1);
    for (size_t i = 1; i < length; i++) {
        if (path[i] != '/')
            continue;
        path[i] = '\0';
        mkdir(path, 0777);
        path[i] = '/';
    }
    mkdir(path, 0777);
}

/* One file: the bytes of `data`, or with NULL the lines of the queue. */
static void put_file(const Place *place, double number, const char *data, size_t length)
{
    char aside[NAME_BYTES + 64], name[NAME_BYTES + 64];
    put_name(aside, place->start, number, ".jsonl.tmp");
    put_name(name, place->start, number, ".jsonl");
    make_folders(place->folder);
    int fd = open(aside, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0666);
    if (fd < 0)
        return;
    bool whole = true;
    if (data != NULL)
        whole = put_bytes(fd, data, length);
    for (size_t i = 0; data == NULL && whole && i < current->count; i++) {
        const Line *line = &current->lines[(current->first + i) % current->room];
        whole = put_bytes(fd, line->data, line->length);
    }
    whole = fsync(fd) == 0 && whole;
    close(fd);
    if (whole) /* else the whole lines of the .tmp are replayed */
        rename(aside, name);
}

static void rescue(void)
{
    Emitter *emitter = current;
    if (emitter == NULL || emitter->pid != getpid())
        return;
    for (int i = 0; i < place_count; i++) {
        if (in_hand != NULL)
            put_file(&places[i], in_hand_number, (const char *)RAW(in_hand), (size_t)XLENGTH(in_hand));
        if (emitter->count > 0)
            put_file(&places[i], counts_apart ? next_number : emitter->lines[emitter->first].seq, NULL, 0);
    }
}

static void on_term(int number)
{
    if (changing) {
        asked = 1;
        return;
    }
    rescue();
    signal(number, SIG_DFL);
    raise(number);
}

void rescue_hold(void) { changing = 1; }

void rescue_free(void)
{
    changing = 0;
    if (asked)
        on_term(SIGTERM);
}

void rescue_forget(const Emitter *emitter)
{
    if (current == emitter)
        current = NULL;
}

/* Watch over this emitter: `folders` and `starts` say where its files go. Somebody else's handler stays. */
SEXP mon_watch(SEXP pointer, SEXP folders, SEXP starts, SEXP apart)
{
    struct sigaction before;
    place_count = 0;
    for (R_xlen_t i = 0; i < Rf_xlength(folders) && place_count < MOST_PLACES; i++) {
        const char *folder = Rf_translateChar(STRING_ELT(folders, i)), *start = Rf_translateChar(STRING_ELT(starts, i));
        if (strlen(folder) >= NAME_BYTES || strlen(start) >= NAME_BYTES)
            continue;
        strcpy(places[place_count].folder, folder);
        strcpy(places[place_count++].start, start);
    }
    counts_apart = Rf_asLogical(apart);
    next_number = 1;
    mon_settled();
    current = R_ExternalPtrAddr(pointer);
    if (sigaction(SIGTERM, NULL, &before) == 0 && before.sa_handler == SIG_DFL && !(before.sa_flags & SA_SIGINFO)) {
        struct sigaction ours = {.sa_handler = on_term};
        sigemptyset(&ours.sa_mask);
        sigaction(SIGTERM, &ours, NULL);
    }
    return R_NilValue;
}

/* Nobody is to be watched over any more. */
SEXP mon_unwatch(void)
{
    struct sigaction now;
    current = NULL;
    mon_settled();
    if (sigaction(SIGTERM, NULL, &now) == 0 && now.sa_handler == on_term)
        signal(SIGTERM, SIG_DFL);
    return R_NilValue;
}

/* A batch is on its way, and the next file would have this number. */
SEXP mon_in_hand(SEXP body, SEXP number, SEXP next)
{
    mon_settled();
    rescue_hold();
    R_PreserveObject(body);
    in_hand = body;
    in_hand_number = Rf_asReal(number);
    next_number = Rf_asReal(next);
    rescue_free();
    return R_NilValue;
}

/* It has arrived, or is on disk. */
SEXP mon_settled(void)
{
    SEXP body = in_hand;
    in_hand = NULL;
    if (body != NULL)
        R_ReleaseObject(body);
    return R_NilValue;
}
