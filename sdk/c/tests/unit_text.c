/* Text, numbers, JSON, ids and hashes. */
#include <float.h>
#include <locale.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "ids.h"
#include "json.h"
#include "number.h"
#include "retry.h"
#include "sha256.h"
#include "text.h"
#include "unit.h"

static void check_escape(const char *text, size_t len, const char *expected, size_t characters) {
    struct mon_buf buf = {0};
    CHECK(mon_text_escape(&buf, text, len) == characters);
    CHECK_TEXT(mon_buf_string(&buf), expected);
    mon_buf_free(&buf);
}

static void text_that_is_not_utf8_goes_out_as_it_is(void) {
    check_escape("abc\xFF", 4, "abc\xEF\xBF\xBD", 4);
    check_escape("\xE2\x82", 2, "\xEF\xBF\xBD", 1);           /* torn */
    check_escape("\xC0\xAF", 2, "\xEF\xBF\xBD\xEF\xBF\xBD", 2); /* overlong */
    check_escape("\xED\xA0\x80", 3, "\xEF\xBF\xBD", 1);       /* a surrogate */
    check_escape("\xF4\x90\x80\x80", 4, "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD", 4);
    check_escape("a\0b", 3, "a\xEF\xBF\xBD" "b", 3);
    check_escape("\xF0\x9F\x98\x80\xC3\xA9", 6, "\xF0\x9F\x98\x80\xC3\xA9", 2);
}

static void a_byte_that_needs_an_escape_hides_in_a_word(void) {
    const char *odd[] = {"\"", "\\", "\n", "\x01", "\x1f"};
    const char *escaped[] = {"\\\"", "\\\\", "\\n", "\\u0001", "\\u001f"};
    for (size_t i = 0; i < 5; i++) {
        for (size_t place = 0; place < 17; place++) {
            char text[18] = "abcdefghijklmnop ";
            char expected[32];
            text[place] = odd[i][0];
            snprintf(expected, sizeof expected, "%.*s%s%s", (int)place, text, escaped[i], text + place + 1);
            check_escape(text, 17, expected, 17);
        }
    }
}

static void check_number(double value, const char *expected) {
    char text[MON_NUMBER_TEXT + 1];
    text[mon_number_write(text, value)] = '\0';
    CHECK_TEXT(text, expected);
    CHECK(mon_number_parse(text, strlen(text)) == value);
}

static void a_number_changes_on_its_way(void) {
    check_number(21.5, "21.5");
    check_number(0, "0");
    check_number(-0.0, "-0.0");
    check_number(0.1, "0.1");
    check_number(0.3, "0.3");
    check_number(-1.25, "-1.25");
    check_number(1e15, "1e+15");
    check_number(999999999999999, "999999999999999");
    check_number(1.05, "1.05");
    check_number(DBL_MAX, "1.7976931348623157e+308");
    check_number(5e-324, "4.94065645841247e-324");
    unsigned seed = 1;
    for (int i = 0; i < 100000; i++) {
        uint64_t bits = 0;
        for (int j = 0; j < 4; j++) {
            seed = seed * 1103515245 + 12345;
            bits = bits << 16 | (seed >> 16 & 0xFFFF);
        }
        double value;
        memcpy(&value, &bits, sizeof value);
        if (isfinite(value)) {
            struct mon_buf marked = {0};
            struct mon_buf text = {0};
            mon_number_add(&marked, value);
            mon_number_expand(&text, marked.data, marked.len);
            CHECK(mon_number_parse(text.data, text.len) == value);
            mon_buf_free(&marked);
            mon_buf_free(&text);
        }
    }
}

static void a_comma_of_the_locale_gets_into_a_number(void) {
    char text[MON_NUMBER_TEXT + 1];
    if (setlocale(LC_ALL, "de_DE.UTF-8") == NULL) {
        (void)setlocale(LC_ALL, "C"); /* there is no such locale here: at least the ordinary one must hold */
    }
    text[mon_number_write(text, 1.0 / 3)] = '\0';
    setlocale(LC_ALL, "C");
    CHECK_TEXT(text, "0.333333333333333" "3");
}

static void check_json(const char *text, const char *expected) {
    struct mon_json_document document;
    struct mon_buf out = {0};
    bool parsed = mon_json_parse(&document, text, strlen(text));
    if (parsed) {
        mon_json_write(&out, document.root);
    }
    CHECK(parsed == (expected != NULL));
    if (expected != NULL && parsed) {
        CHECK_TEXT(mon_buf_string(&out), expected);
    }
    mon_buf_free(&out);
    mon_json_free(&document);
}

static void json_comes_out_as_something_else(void) {
    check_json(" {\"a\" : [1, 2.50, -0, 1e5] , \"b\":null} ", "{\"a\":[1,2.50,-0,1e5],\"b\":null}");
    check_json("9007199254740993", "9007199254740993");
    check_json("1000000000000000000000000000000", "1000000000000000000000000000000");
    check_json("\"\\u00e9\\ud83d\\ude00\\n\"", "\"\xC3\xA9\xF0\x9F\x98\x80\\n\"");
    check_json("\"\\ud800x\"", "\"\xEF\xBF\xBDx\"");
    check_json("\"\\ud800\\u0041\"", "\"\xEF\xBF\xBD" "A\"");
    check_json("\"a\\u0000b\"", "\"a\xEF\xBF\xBD" "b\"");
    check_json("{\"a\":1,\"b\":2,\"a\":3}", "{\"b\":2,\"a\":3}");
    check_json("NaN", "null");
    check_json("[1e999,-Infinity]", "[null,null]");
}

static void text_that_is_no_json_is_taken(void) {
    const char *wrong[] = {"",     "{",     "[1,]",       "{\"a\":}",  "{a:1}", "01",       "1.",   "1e",     ".5",        "+1",
                           "tru",  "\"a",   "\"\\x\"",    "\"\\u12\"", "[1 2]", "{\"a\" 1}", "1 2",  "\"\t\"", "{\"a\":1,}", "nul",
                           "- 1",  "[",     "\"\\",       "{\"a\":1",  "]",     "}",        "\xEF", "--1",    "1..2",      "\"\\ud8\""};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        check_json(wrong[i], NULL);
    }
}

static void many_keys_repeat_and_one_is_lost(void) {
    struct mon_buf text = {0};
    mon_buf_char(&text, '{');
    for (int i = 0; i < 100; i++) {
        mon_buf_format(&text, "\"k%d\":%d,", i % 50, i);
    }
    mon_buf_text(&text, "\"end\":1}");
    struct mon_json_document document;
    CHECK(mon_json_parse(&document, text.data, text.len));
    size_t count = 0;
    for (const struct mon_json *entry = document.root == NULL ? NULL : document.root->child; entry != NULL; entry = entry->next) {
        count++;
    }
    CHECK(count == 51);
    const struct mon_json *last = mon_json_get(document.root, "k7");
    CHECK(last != NULL && strcmp(last->text, "57") == 0);
    mon_json_free(&document);
    mon_buf_free(&text);
}

static void nesting_overflows_the_stack(void) {
    char text[20000];
    memset(text, '[', sizeof text);
    struct mon_json_document document;
    CHECK(!mon_json_parse(&document, text, sizeof text));
    CHECK_TEXT(document.error, "nests deeper than 64 levels");
    mon_json_free(&document);
}

static void ids_do_not_sort_as_they_were_made(void) {
    struct mon_id_source source;
    mon_id_source_init(&source);
    char before[MON_ID_SIZE] = "";
    for (uint64_t i = 1; i < 1000; i++) {
        char id[MON_ID_SIZE];
        mon_id_write(&source, id, 1700000000000 + i / 10, i);
        CHECK(strlen(id) == 36 && id[14] == '7' && strchr("89ab", id[19]) != NULL && strcmp(before, id) < 0);
        memcpy(before, id, sizeof id);
    }
}

static void a_hash_is_not_that_of_the_standard(void) {
    char hex[MON_SHA256_HEX];
    mon_sha256_hex("abc", 3, hex);
    CHECK_TEXT(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    mon_sha256_hex("", 0, hex);
    CHECK_TEXT(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    mon_sha256_hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56, hex);
    CHECK_TEXT(hex, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    /* RFC 4231, test cases 2 and 6 */
    mon_hmac_sha256_hex("Jefe", "what do ya want ", 16, "for nothing?", 12, hex);
    CHECK_TEXT(hex, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    char key[132];
    memset(key, 0xaa, 131);
    key[131] = '\0';
    mon_hmac_sha256_hex(key, "Test Using Larger Than Block-Size Key", 37, " - Hash Key First", 17, hex);
    CHECK_TEXT(hex, "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
}

static void retry_after_is_misread(void) {
    time_t now = 1769860800; /* 2026-01-31T12:00:00Z */
    const struct {
        const char *header;
        double seconds;
    } cases[] = {{"5", 5}, {" 120 ", 120}, {"99999999999999", 3600}, {"Sat, 31 Jan 2026 12:00:30 GMT", 30}, {"Saturday, 31-Jan-26 12:00:30 GMT", 30},
                 {"Sat Jan 31 12:00:30 2026", 30}, {"Sat, 31 Jan 2026 11:00:00 GMT", 0}, {"soon", -1}, {"", -1}, {"-5", -1}, {"1.5", -1},
                 {"Sat, 31 Foo 2026 12:00:30 GMT", -1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        CHECK(mon_retry_after(cases[i].header, strlen(cases[i].header), now) == cases[i].seconds);
    }
}

static void a_dead_backend_is_asked_at_each_batch(void) {
    struct mon_breaker breaker = {0};
    struct mon_random random = {7};
    CHECK(mon_breaker_allows(&breaker, 0));
    CHECK(mon_breaker_failed(&breaker, 100, 0, &random));
    CHECK(!mon_breaker_allows(&breaker, 100.3) && mon_breaker_allows(&breaker, 100.7));
    CHECK(!mon_breaker_failed(&breaker, 101, 30, &random));
    CHECK(!mon_breaker_allows(&breaker, 130));
    CHECK(mon_breaker_succeeded(&breaker) && !mon_breaker_succeeded(&breaker));
    for (unsigned attempt = 0; attempt < 40; attempt++) {
        double pause = mon_backoff(attempt, &random);
        CHECK(pause > 0.04 && pause <= 5);
    }
}

const struct unit_test unit_text_tests[] = {
    TEST(text_that_is_not_utf8_goes_out_as_it_is),
    TEST(a_byte_that_needs_an_escape_hides_in_a_word),
    TEST(a_number_changes_on_its_way),
    TEST(a_comma_of_the_locale_gets_into_a_number),
    TEST(json_comes_out_as_something_else),
    TEST(text_that_is_no_json_is_taken),
    TEST(many_keys_repeat_and_one_is_lost),
    TEST(nesting_overflows_the_stack),
    TEST(ids_do_not_sort_as_they_were_made),
    TEST(a_hash_is_not_that_of_the_standard),
    TEST(retry_after_is_misread),
    TEST(a_dead_backend_is_asked_at_each_batch),
    {NULL, NULL},
};
