/* SHA-256 (FIPS 180-4) and HMAC-SHA-256 (RFC 2104), in hexadecimal. */
#ifndef MON_SHA256_H
#define MON_SHA256_H

#include <stddef.h>
#include <stdint.h>

enum { MON_SHA256_HEX = 65 };

struct mon_sha256 {
    uint32_t state[8];
    uint64_t bytes;
    unsigned char block[64];
};

void mon_sha256_init(struct mon_sha256 *sha);
void mon_sha256_add(struct mon_sha256 *sha, const void *bytes, size_t len);
void mon_sha256_finish(struct mon_sha256 *sha, unsigned char digest[32]);

void mon_sha256_hex(const void *bytes, size_t len, char hex[MON_SHA256_HEX]);

/* Of two texts one after the other. */
void mon_hmac_sha256_hex(const char *key, const char *head, size_t head_len, const char *tail, size_t tail_len, char hex[MON_SHA256_HEX]);

#endif
