/*
 * Delays, counted in slots: 64 for each power of two of microseconds, so that none is told wrong by more than 1 %.
 *
 * A part of load.c. It never stores a single delay, and one that never ended is known only by what is missing.
 */
#ifndef HISTOGRAM_H
#define HISTOGRAM_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>

enum { SLOTS = 64 * 32 };

struct histogram {
    uint64_t slots[SLOTS], count, sum_us, max_us;
};

static size_t slot_of(uint64_t us) {
    if (us < 64) return us;
    int power = 63 - __builtin_clzll(us);
    size_t slot = (size_t)(power - 5) * 64 + ((us >> (power - 6)) & 63);
    return slot < SLOTS ? slot : SLOTS - 1;
}

static double value_of(size_t slot) {
    if (slot < 64) return (double)slot;
    size_t power = slot / 64 + 5;
    return (double)((64 + slot % 64) << (power - 6)) + (double)(1ull << (power - 6)) / 2;
}

static void note(struct histogram *h, uint64_t from_ns, uint64_t to_ns) {
    uint64_t us = to_ns > from_ns ? (to_ns - from_ns) / 1000 : 0;
    h->slots[slot_of(us)]++, h->count++, h->sum_us += us;
    if (us > h->max_us) h->max_us = us;
}

/* Print a histogram; `of` is how many there should be, and those that are missing took for ever. */
static void print_histogram(const char *name, const struct histogram *h, uint64_t of) {
    static const double shares[] = {0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9999, 1};
    if (of < h->count) of = h->count;
    printf(",\"%s\":{\"count\":%llu,\"of\":%llu,\"mean_us\":%.1f,\"percentiles\":[", name, (unsigned long long)h->count,
           (unsigned long long)of, h->count ? (double)h->sum_us / (double)h->count : 0.0);
    uint64_t seen = 0;
    size_t slot = 0;
    for (size_t i = 0; of && i < sizeof shares / sizeof *shares; i++) {
        uint64_t rank = (uint64_t)ceil(shares[i] * (double)of);
        while (slot < SLOTS && seen + h->slots[slot] < rank) seen += h->slots[slot++];
        if (slot >= SLOTS) printf("%s[%g,null]", i ? "," : "", shares[i] * 100);
        else printf("%s[%g,%.0f]", i ? "," : "", shares[i] * 100, shares[i] == 1 ? (double)h->max_us : value_of(slot));
    }
    printf("]}");
}

#endif
