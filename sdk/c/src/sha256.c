/* SHA-256 and HMAC-SHA-256. */
#include "sha256.h"

#include <string.h>

static const uint32_t K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be,
    0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa,
    0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85,
    0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3,
    0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f,
    0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t rotated(uint32_t word, unsigned bits) {
    return word >> bits | word << (32 - bits);
}

static void mix(struct mon_sha256 *sha) {
    uint32_t w[64];
    for (size_t i = 0; i < 16; i++) {
        const unsigned char *at = sha->block + 4 * i;
        w[i] = (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
    }
    for (size_t i = 16; i < 64; i++) {
        uint32_t s0 = rotated(w[i - 15], 7) ^ rotated(w[i - 15], 18) ^ w[i - 15] >> 3;
        uint32_t s1 = rotated(w[i - 2], 17) ^ rotated(w[i - 2], 19) ^ w[i - 2] >> 10;
        w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    uint32_t s[8];
    memcpy(s, sha->state, sizeof s);
    for (size_t i = 0; i < 64; i++) {
        uint32_t one = s[7] + (rotated(s[4], 6) ^ rotated(s[4], 11) ^ rotated(s[4], 25)) + ((s[4] & s[5]) ^ (~s[4] & s[6])) + K[i] + w[i];
        uint32_t two = (rotated(s[0], 2) ^ rotated(s[0], 13) ^ rotated(s[0], 22)) + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
        memmove(s + 1, s, 7 * sizeof *s);
        s[4] += one;
        s[0] = one + two;
    }
    for (size_t i = 0; i < 8; i++) {
        sha->state[i] += s[i];
    }
}

void mon_sha256_init(struct mon_sha256 *sha) {
    static const uint32_t start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    *sha = (struct mon_sha256){0};
    memcpy(sha->state, start, sizeof start);
}

void mon_sha256_add(struct mon_sha256 *sha, const void *bytes, size_t len) {
    const unsigned char *from = bytes;
    while (len > 0) {
        size_t at = sha->bytes % 64;
        size_t part = 64 - at < len ? 64 - at : len;
        memcpy(sha->block + at, from, part);
        sha->bytes += part;
        from += part;
        len -= part;
        if (sha->bytes % 64 == 0) {
            mix(sha);
        }
    }
}

void mon_sha256_finish(struct mon_sha256 *sha, unsigned char digest[32]) {
    uint64_t bits = sha->bytes * 8;
    unsigned char length[8];
    for (size_t i = 0; i < 8; i++) {
        length[i] = (unsigned char)(bits >> (56 - 8 * i));
    }
    mon_sha256_add(sha, "\x80", 1);
    while (sha->bytes % 64 != 56) {
        mon_sha256_add(sha, "", 1);
    }
    mon_sha256_add(sha, length, 8);
    for (size_t i = 0; i < 32; i++) {
        digest[i] = (unsigned char)(sha->state[i / 4] >> (24 - 8 * (i % 4)));
    }
}

static void to_hex(const unsigned char digest[32], char hex[MON_SHA256_HEX]) {
    for (size_t i = 0; i < 32; i++) {
        hex[2 * i] = "0123456789abcdef"[digest[i] >> 4];
        hex[2 * i + 1] = "0123456789abcdef"[digest[i] & 15];
    }
    hex[64] = '\0';
}

void mon_sha256_hex(const void *bytes, size_t len, char hex[MON_SHA256_HEX]) {
    struct mon_sha256 sha;
    unsigned char digest[32];
    mon_sha256_init(&sha);
    mon_sha256_add(&sha, bytes, len);
    mon_sha256_finish(&sha, digest);
    to_hex(digest, hex);
}

void mon_hmac_sha256_hex(const char *key, const char *head, size_t head_len, const char *tail, size_t tail_len, char hex[MON_SHA256_HEX]) {
    unsigned char block[64] = {0};
    unsigned char digest[32];
    struct mon_sha256 sha;
    size_t len = strlen(key);
    if (len > sizeof block) {
        mon_sha256_init(&sha);
        mon_sha256_add(&sha, key, len);
        mon_sha256_finish(&sha, block);
    } else {
        memcpy(block, key, len);
    }
    for (size_t i = 0; i < sizeof block; i++) {
        block[i] ^= 0x36;
    }
    mon_sha256_init(&sha);
    mon_sha256_add(&sha, block, sizeof block);
    mon_sha256_add(&sha, head, head_len);
    mon_sha256_add(&sha, tail, tail_len);
    mon_sha256_finish(&sha, digest);
    for (size_t i = 0; i < sizeof block; i++) {
        block[i] ^= 0x36 ^ 0x5c;
    }
    mon_sha256_init(&sha);
    mon_sha256_add(&sha, block, sizeof block);
    mon_sha256_add(&sha, digest, sizeof digest);
    mon_sha256_finish(&sha, digest);
    to_hex(digest, hex);
}
