/*
 * The load: one client program for every server that is measured, cheap enough not to be what is measured.
 *
 * One process, one thread, one epoll loop, thousands of connections; compiled by benchmarks/compile.py and driven by
 * benchmarks/load.py, line by line over stdin and stdout, so that the caller reads the servers' processor clocks at the
 * very beginning and end of a window. Client addresses are spread over 127.0.0.0/8. A message is known by `"seq":N` in
 * it: the Nth publication of its room. It is due at a time of the plan, whether or not it could be sent then, and its
 * latency counts from there. Every client keeps a ledger of its room's numbers: lost, doubled, out of order, not come. It
 * also keeps the longest of its delays, returned or not: `worst` in a report has one of each client.
 *
 * It reads what servers send: whole, unmasked frames, several in one read, several messages in one frame. Compressed
 * ones (RFC 7692) where it was compiled WITH_ZLIB and `set deflate 1` has it offer that; what it says is plain. It never
 * connects to anything but 127.0.0.0/8, never reassembles fragments (they are counted as strange), and never judges.
 *
 * Lines it takes:
 *
 *   set NAME VALUE                  port, path, protocol (websocket, or http: one request at a time), lines, bursts,
 *                                   deflate, ping, pong, reconnect_ms
 *   greet TEXT<tab>EXPECTED         after the handshake: say it, and wait for a message that holds EXPECTED
 *   again TEXT<tab>EXPECTED         the same for a client that comes back; TEXT or EXPECTED may be empty
 *   publication TEXT
 *   open count= at_once= rooms= patience=              client number N is in room N % rooms
 *   publish count= rate= burst= size= items= pick=turn|zipf skew= seed= patience= cut_every= away=
 *   storm count= at_once= patience= think=             connect, greet, close, as often as count says; `think` seconds
 *                                                      before each answer, as over a network
 *   stop                                               of `publish`: nothing more is due, and it ends as it would
 *   report
 *   quit
 *
 * A payload is one letter over and over, as long as size says; with items=1 it is a list of things, each of them another.
 * Texts know \n, \r and \t, and %r room, %c client, %i id of a command, %s number, %d payload, %e epoch, %o offset, and
 * %n: how many are due, where `set bursts 1` has one text said for all of them. rate=0 is a closed loop: the next is
 * due when the one before was delivered. `publish` gives up when nothing came for `patience` seconds after the last was
 * due.
 * open, publish, storm and report are each answered by one line of JSON.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>
#ifdef WITH_ZLIB
#include <zlib.h>
#endif

#include "histogram.h"

enum { READ_BYTES = 256 * 1024, EVENTS = 512, TEXT = 2048, STEPS = 8, EPOCH = 64 };
enum { WAKE_CLIENT = 0xFFFFFFFF, TIMER = 0xFFFFFFFE, STDIN = 0xFFFFFFFD };
#define SECOND 1000000000ull
#define NEVER UINT64_MAX

enum state { IDLE, CONNECTING, SHAKING, GREETING, READY, CLOSING, AWAY };

struct client {
    int fd;
    enum state state;
    uint32_t generation; /* of its descriptor: an event for an older one is nobody's */
    uint32_t number, room;
    int step;
    int knows;            /* has a position to come back with */
    int watches_out;      /* EPOLLOUT is asked for */
    uint8_t *rest, *unsent;
    size_t rest_len, unsent_len;
    uint64_t *seen;       /* a bit for each number */
    uint32_t seen_words, from, top;
    uint64_t began, cut_at, back_at, speaks_at;
    uint64_t worst;       /* the longest delay of a publication in this job */
    uint64_t offset;
    char epoch[EPOCH];
    struct inflater *inflater; /* the server may compress */
};

struct room {
    uint32_t published, sent, acked, room_for, members, publisher, answered, measured_from;
    uint64_t *due;
};

struct step { char text[TEXT], expected[256]; };
struct rates {
    long count, at_once, rooms, burst, size, items, pick_zipf, seed;
    double rate, skew, patience, cut_every, away, think;
};

static struct {
    int port, http, lines, bursts, deflate, reconnect_ms, greets, agains;
    char path[512], ping[64], pong[64], publication[TEXT];
    struct step greet[STEPS], again[STEPS];
} plan = {.path = "/", .reconnect_ms = -1};

static struct client *clients;
static struct room *rooms;
static uint32_t client_count, room_count, client_room_for;
static struct {
    uint64_t frames, messages, bytes, reads, other, doubled, reordered, strange, closed, refused, cuts, returns;
    uint64_t errors, early, published, expected, delivered, inflated;
    int last_close;
    char first_error[400];
} counts;
static struct histogram latency, replay, back, late, connecting, worst;
static enum { NOTHING, OPENING, PUBLISHING, STORMING } job;
static struct rates rates;
static uint64_t job_began, job_cpu, deadline, next_due, owed, done_count, started_count, in_flight;
static uint64_t timer_at, next_scan = NEVER, next_speech = NEVER;
static double *zipf;
static int poller, timer;
static uint8_t *input;
static size_t input_size;
static uint64_t random_state = 88172645463325252ull, now;

static uint64_t clock_ns(clockid_t which) {
    struct timespec t;
    clock_gettime(which, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static uint64_t draw(void) { /* xorshift64 (Marsaglia, 2003) */
    random_state ^= random_state << 13, random_state ^= random_state >> 7, random_state ^= random_state << 17;
    return random_state;
}

static double draw_share(void) { return (double)(draw() >> 11) / 9007199254740992.0; }

static void *grown(void *old, size_t bytes) {
    void *made = realloc(old, bytes);
    if (!made) fprintf(stderr, "load: out of memory\n"), exit(1);
    return made;
}

static void note_error(const char *what, const uint8_t *text, size_t len) {
    counts.errors++;
    if (counts.first_error[0]) return;
    int at = snprintf(counts.first_error, 120, "%s: ", what);
    for (size_t i = 0; i < len && at < 390; i++) { /* kept fit for a JSON string */
        int fits = text[i] >= 32 && text[i] <= 126 && text[i] != '"' && text[i] != '\\';
        counts.first_error[at++] = fits ? (char)text[i] : '\'';
    }
    counts.first_error[at] = 0;
}

/* Descriptors */

static void watch(struct client *c, int out, int how) {
    struct epoll_event event = {.events = EPOLLIN | (out ? EPOLLOUT : 0)};
    event.data.u64 = (uint64_t)c->generation << 32 | (uint32_t)(c - clients);
    epoll_ctl(poller, how, c->fd, &event);
    c->watches_out = out;
}

static void let_inflater_go(struct client *c);

static void shut(struct client *c) {
    let_inflater_go(c);
    if (c->fd >= 0) close(c->fd);
    c->fd = -1, c->generation++;
    free(c->rest), free(c->unsent);
    c->rest = c->unsent = NULL;
    c->rest_len = c->unsent_len = 0;
}

static void lost_connection(struct client *c, const char *why);

static void put(struct client *c, const uint8_t *data, size_t len) {
    ssize_t sent = 0;
    if (!c->unsent_len) {
        sent = send(c->fd, data, len, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno != EAGAIN) return lost_connection(c, strerror(errno));
            sent = 0;
        }
    }
    if ((size_t)sent == len) return;
    c->unsent = grown(c->unsent, c->unsent_len + len - (size_t)sent);
    memcpy(c->unsent + c->unsent_len, data + sent, len - (size_t)sent);
    c->unsent_len += len - (size_t)sent;
    if (!c->watches_out) watch(c, 1, EPOLL_CTL_MOD);
}

static void put_rest(struct client *c) {
    ssize_t sent = send(c->fd, c->unsent, c->unsent_len, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) return lost_connection(c, strerror(errno));
    if (sent > 0) memmove(c->unsent, c->unsent + sent, c->unsent_len -= (size_t)sent);
    if (!c->unsent_len) watch(c, 0, EPOLL_CTL_MOD);
}

/* Write one masked frame (RFC 6455 section 5.3) at `out`; return its size, payload plus 8 at most. */
static size_t frame_of(uint8_t *out, int opcode, const uint8_t *payload, size_t len) {
    size_t at = 0;
    out[at++] = (uint8_t)(0x80 | opcode);
    if (len < 126) out[at++] = (uint8_t)(0x80 | len);
    else out[at++] = 0xFE, out[at++] = (uint8_t)(len >> 8), out[at++] = (uint8_t)len;
    uint32_t key = (uint32_t)draw();
    uint8_t mask[4];
    memcpy(mask, &key, 4), memcpy(out + at, mask, 4), at += 4;
    for (size_t i = 0; i < len; i++) out[at + i] = payload[i] ^ mask[i & 3];
    return at + len;
}

static void put_text(struct client *c, const char *text, size_t len) {
    static uint8_t frame[70000];
    if (plan.http) put(c, (const uint8_t *)text, len);
    else put(c, frame, frame_of(frame, 1, (const uint8_t *)text, len));
}

/* Write things, as many as have room before `until`: the same fields in each, and the same in each run. */
static size_t fill_items(char *out, size_t at, size_t until, uint32_t seq) {
    static const char *const names[] = {"amber",  "basin",  "copper", "delta", "ember",  "fjord",  "garnet", "harbour",
                                        "indigo", "jasper", "kelp",   "lagoon", "marble", "nickel", "opal",   "pebble"};
    uint32_t drawn = seq * 2654435761u + 1;
    for (const char *comma = ""; at + 70 < until; comma = ",") {
        drawn = drawn * 1664525u + 1013904223u; /* Numerical Recipes' generator: its upper bits do */
        at += (size_t)sprintf(out + at, "%s{\"id\":%u,\"name\":\"%s %s\",\"price\":%u.%02u}", comma, drawn >> 12,
                              names[drawn >> 28], names[drawn >> 24 & 15], drawn >> 23 & 255, (drawn >> 16 & 127) % 100);
    }
    return at;
}

/* Fill a template. `seq` is the number of the publication, for %s, %d and %i. */
static size_t fill(char *out, size_t room_for, const char *form, const struct client *c, uint32_t seq) {
    size_t at = 0;
    for (; *form && at + 64 < room_for; form++) {
        if (*form != '%') { out[at++] = *form; continue; }
        char *to = out + at;
        size_t left = room_for - at;
        switch (*++form) {
        case 'r': at += (size_t)snprintf(to, left, "%u", c->room); break;
        case 'c': at += (size_t)snprintf(to, left, "%u", c->number); break;
        case 's': at += (size_t)snprintf(to, left, "%u", seq); break;
        case 'n': at += (size_t)snprintf(to, left, "%u", rooms[c->room].published - seq); break;
        case 'i': at += (size_t)snprintf(to, left, "%u", seq + 100); break;
        case 'e': at += (size_t)snprintf(to, left, "%s", c->epoch); break;
        case 'o': at += (size_t)snprintf(to, left, "%llu", (unsigned long long)c->offset); break;
        case 'd': {
            size_t begin = at;
            if (rates.items) {
                at += (size_t)snprintf(to, left, "{\"seq\":%u,\"items\":[", seq);
                at = fill_items(out, at, begin + (size_t)rates.size < room_for ? begin + (size_t)rates.size : room_for, seq);
                out[at++] = ']', out[at++] = '}';
                break;
            }
            at += (size_t)snprintf(to, left, "{\"seq\":%u,\"x\":\"", seq);
            while (at - begin + 2 < (size_t)rates.size && at + 8 < room_for) out[at++] = 'x';
            out[at++] = '"', out[at++] = '}';
            break;
        }
        default: out[at++] = *form;
        }
    }
    return at;
}

/* Connections */

static void begin_connecting(struct client *c) {
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) fprintf(stderr, "load: %s\n", strerror(errno)), exit(1);
    int on = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    uint32_t n = c->number;
    struct sockaddr_in mine = {.sin_family = AF_INET}, theirs = {.sin_family = AF_INET};
    theirs.sin_port = htons((uint16_t)plan.port);
    mine.sin_addr.s_addr = htonl(127u << 24 | (1 + n / 62500 % 250) << 16 | (n / 250 % 250) << 8 | (1 + n % 250));
    theirs.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->state = CONNECTING, c->began = now, c->step = 0, c->speaks_at = NEVER;
    if (bind(c->fd, (struct sockaddr *)&mine, sizeof mine) ||
        (connect(c->fd, (struct sockaddr *)&theirs, sizeof theirs) && errno != EINPROGRESS)) {
        counts.refused++;
        return lost_connection(c, strerror(errno));
    }
    watch(c, 1, EPOLL_CTL_ADD);
}

static void lost_connection(struct client *c, const char *why) {
    enum state was = c->state;
    shut(c);
    if (job == STORMING) {
        if (was == CLOSING) done_count++;
        else counts.closed++, note_error("closed before it was ready", (const uint8_t *)why, strlen(why));
        in_flight--, c->state = IDLE;
        return;
    }
    if (was == CONNECTING || was == SHAKING || was == GREETING) in_flight--;
    if (plan.reconnect_ms >= 0) {
        c->state = AWAY;
        c->back_at = now + (uint64_t)(draw_share() * plan.reconnect_ms * 1e6) + (was == CONNECTING ? SECOND / 10 : 0);
        counts.cuts++;
        return;
    }
    counts.closed++, c->state = IDLE;
    note_error("closed by the server", (const uint8_t *)why, strlen(why));
}

static void flush_room(struct room *r);

static void is_ready(struct client *c) {
    int returned = c->knows;
    c->state = READY, c->knows = 1, in_flight--;
    note(returned ? &back : &connecting, c->began, now);
    if (job == STORMING) {
        uint8_t frame[16];
        in_flight++, c->state = CLOSING; /* it is in flight until the server has closed */
        put(c, frame, frame_of(frame, 8, (const uint8_t *)"\x03\xe8", 2));
        return;
    }
    if (returned) {
        counts.returns++;
        if (rates.cut_every > 0) c->cut_at = now + (uint64_t)(rates.cut_every * 1e9);
    } else done_count++;
    struct room *r = &rooms[c->room];
    if (!returned) {
        c->from = c->top = r->published;
        if (r->members++ == 0) r->publisher = (uint32_t)(c - clients);
    }
    if (r->publisher == (uint32_t)(c - clients)) {
        if (returned) r->sent = r->acked;
        flush_room(r);
    }
}

static void greet(struct client *c) {
    int again = c->knows && plan.agains;
    int steps = again ? plan.agains : plan.greets;
    while (c->fd >= 0 && c->state == GREETING) {
        if (c->step >= steps) return is_ready(c);
        struct step *step = again ? &plan.again[c->step] : &plan.greet[c->step];
        if (step->text[0]) {
            char text[TEXT + 256];
            put_text(c, text, fill(text, sizeof text, step->text, c, 0));
        }
        if (step->expected[0]) return;
        c->step++;
    }
}

/* Say what comes next, at once or after a while. */
static void answer(struct client *c) {
    if (job != STORMING || rates.think <= 0) return greet(c);
    c->speaks_at = now + (uint64_t)(rates.think * 1e9);
    if (c->speaks_at < next_speech) next_speech = c->speaks_at;
}

static void speak(void) {
    if (now < next_speech) return;
    next_speech = NEVER;
    for (uint32_t i = 0; i < client_count; i++) {
        struct client *c = &clients[i];
        if (c->state != GREETING || c->speaks_at == NEVER) continue;
        if (c->speaks_at <= now) c->speaks_at = NEVER, greet(c);
        else if (c->speaks_at < next_speech) next_speech = c->speaks_at;
    }
}

static void connected(struct client *c) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) {
        counts.refused++;
        return lost_connection(c, strerror(error));
    }
    watch(c, 0, EPOLL_CTL_MOD);
    if (plan.http) {
        c->state = GREETING;
        return greet(c);
    }
    char head[1024];
    int len = snprintf(head, sizeof head,
                       "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                       "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s\r\n",
                       plan.path, plan.port,
                       plan.deflate ? "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n" : "");
    c->state = SHAKING;
    put(c, (uint8_t *)head, (size_t)len);
}

/* Publications */

static void publish_due(struct room *r, uint64_t due) {
    if (r->published == r->room_for) {
        r->room_for = r->room_for ? r->room_for * 2 : 64;
        r->due = grown(r->due, r->room_for * sizeof *r->due);
    }
    r->due[r->published++] = due;
    counts.published++, counts.expected += r->members, owed += r->members;
}

/* Send what the room's publisher owes, all of it in one send(); an HTTP client waits for each answer. */
static void flush_room(struct room *r) {
    static uint8_t frames[1 << 20];
    char text[TEXT + 20000];
    struct client *c = &clients[r->publisher];
    if (plan.http) {
        if (r->sent < r->published && r->sent == r->answered && c->state == READY) {
            uint32_t seq = r->sent++;
            note(&late, r->due[seq], now);
            put_text(c, text, fill(text, sizeof text, plan.publication, c, seq));
        }
        return;
    }
    while (r->sent < r->published && c->state == READY) {
        size_t at = 0;
        while (r->sent < r->published && at + sizeof text + 16 < sizeof frames) {
            uint32_t seq = r->sent++;
            size_t len = fill(text, sizeof text, plan.publication, c, seq);
            at += frame_of(frames + at, 1, (uint8_t *)text, len);
            note(&late, r->due[seq], now);
            if (plan.bursts) r->sent = r->published;
        }
        put(c, frames, at);
    }
}

static struct room *pick_room(void) {
    if (!rates.pick_zipf) return &rooms[(started_count / (uint64_t)rates.burst) % room_count];
    double at = draw_share() * zipf[room_count - 1];
    uint32_t low = 0, high = room_count - 1;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (zipf[middle] < at) low = middle + 1;
        else high = middle;
    }
    return &rooms[low];
}

static void publish_what_is_due(void) {
    while (started_count < (uint64_t)rates.count && rates.rate > 0 && next_due <= now) {
        struct room *r = pick_room();
        for (long i = 0; i < rates.burst && started_count < (uint64_t)rates.count; i++, started_count++)
            publish_due(r, next_due);
        flush_room(r);
        next_due = job_began + (uint64_t)((double)(started_count / (uint64_t)rates.burst) / rates.rate * 1e9);
    }
}

/* Messages */

static void record(struct client *c, uint32_t seq) {
    struct room *r = &rooms[c->room];
    if (seq >= r->published) { counts.strange++; return; }
    if (seq < c->from) { counts.early++; return; }
    uint32_t word = seq / 64;
    if (word >= c->seen_words) {
        uint32_t words = word + 8;
        c->seen = grown(c->seen, words * sizeof *c->seen);
        memset(c->seen + c->seen_words, 0, (words - c->seen_words) * sizeof *c->seen);
        c->seen_words = words;
    }
    if (c->seen[word] >> (seq % 64) & 1) { counts.doubled++; return; }
    c->seen[word] |= 1ull << (seq % 64);
    if (seq < c->top) counts.reordered++;
    else c->top = seq + 1;
    owed--, counts.delivered++;
    int is_own = r->publisher == (uint32_t)(c - clients);
    if (is_own && seq >= r->acked) r->acked = seq + 1; /* it came back, so it need not be sent again after a return */
    uint64_t silent_until = now + (uint64_t)(rates.patience * 1e9);
    if (job == PUBLISHING && silent_until > deadline) deadline = silent_until;
    if (seq >= r->measured_from) {
        note(c->state == READY ? &latency : &replay, r->due[seq], now);
        if (now > r->due[seq] && now - r->due[seq] > c->worst) c->worst = now - r->due[seq];
    }
    if (rates.rate == 0 && job == PUBLISHING && is_own && started_count < (uint64_t)rates.count) {
        started_count++;
        publish_due(r, now);
        if (!plan.http) flush_room(r);
    }
}

static uint64_t number_at(const uint8_t *at, const uint8_t *end) {
    uint64_t value = 0;
    while (at < end && *at == ' ') at++;
    while (at < end && *at >= '0' && *at <= '9') value = value * 10 + (uint64_t)(*at++ - '0');
    return value;
}

static void note_position(struct client *c, const uint8_t *text, const uint8_t *end) {
    const uint8_t *at = text;
    while ((at = memmem(at, (size_t)(end - at), "\"offset\":", 9))) {
        uint64_t offset = number_at(at += 9, end);
        if (offset > c->offset) c->offset = offset;
    }
    at = memmem(text, (size_t)(end - text), "\"epoch\":\"", 9);
    if (!at) return;
    size_t len = 0;
    for (at += 9; at + len < end && at[len] != '"' && len < EPOCH - 1; len++) c->epoch[len] = (char)at[len];
    c->epoch[len] = 0;
}

static void message(struct client *c, const uint8_t *text, size_t len) {
    const uint8_t *end = text + len, *at = text;
    counts.messages++;
    if (plan.ping[0] && len == strlen(plan.ping) && !memcmp(text, plan.ping, len))
        return put_text(c, plan.pong, strlen(plan.pong));
    int found = 0;
    while ((at = memmem(at, (size_t)(end - at), "\"seq\":", 6))) {
        record(c, (uint32_t)number_at(at += 6, end));
        found = 1;
    }
    if (plan.agains) {
        note_position(c, text, end);
        if (!found && len > 8 && !memcmp(text, "{\"id\":", 6)) { /* an acknowledgement, if it is one of a publication */
            uint64_t id = number_at(text + 6, end);
            struct room *r = &rooms[c->room];
            int is_its = id >= 100 && r->publisher == (uint32_t)(c - clients);
            if (is_its && id - 99 > r->acked) r->acked = (uint32_t)(id - 99);
        }
    }
    if (!found) {
        counts.other++;
        if (memmem(text, len, "\"error\"", 7)) note_error("refused", text, len);
    }
    if (c->state != GREETING || c->fd < 0) return;
    struct step *step = c->knows && plan.agains ? &plan.again[c->step] : &plan.greet[c->step];
    if (memmem(text, len, step->expected, strlen(step->expected))) {
        c->step++;
        answer(c);
    }
}

static void data_frame(struct client *c, const uint8_t *text, size_t len) {
    counts.frames++;
    if (!plan.lines) return message(c, text, len);
    const uint8_t *end = text + len;
    while (text < end && c->fd >= 0) {
        const uint8_t *newline = memchr(text, '\n', (size_t)(end - text));
        const uint8_t *stop = newline ? newline : end;
        if (stop > text) message(c, text, (size_t)(stop - text));
        text = stop + 1;
    }
}

/* Compressed messages: raw deflate without the tail of its flush (RFC 7692 section 7.2) */

#ifdef WITH_ZLIB
struct inflater { z_stream z; int takes_over; };

static void make_inflater(struct client *c, int takes_over) {
    c->inflater = grown(NULL, sizeof *c->inflater);
    memset(c->inflater, 0, sizeof *c->inflater);
    c->inflater->takes_over = takes_over;
    if (inflateInit2(&c->inflater->z, -15) != Z_OK) fprintf(stderr, "load: zlib does not begin\n"), exit(1);
}

static void let_inflater_go(struct client *c) {
    if (c->inflater) inflateEnd(&c->inflater->z);
    free(c->inflater);
    c->inflater = NULL;
}

static void compressed_frame(struct client *c, const uint8_t *data, size_t len) {
    static uint8_t text[1 << 18], tail[] = {0, 0, 0xFF, 0xFF};
    if (!c->inflater) { counts.strange++; return; }
    z_stream *z = &c->inflater->z;
    z->next_out = text, z->avail_out = sizeof text;
    z->next_in = (uint8_t *)data, z->avail_in = (uInt)len;
    int result = inflate(z, Z_SYNC_FLUSH);
    if (result == Z_OK && !z->avail_in) z->next_in = tail, z->avail_in = sizeof tail, result = inflate(z, Z_SYNC_FLUSH);
    if (result != Z_OK || z->avail_in) return note_error("cannot be inflated", data, len);
    if (!c->inflater->takes_over) inflateReset(z);
    counts.inflated++;
    data_frame(c, text, sizeof text - z->avail_out);
}
#else
static void make_inflater(struct client *c, int takes_over) { (void)c, (void)takes_over; }
static void let_inflater_go(struct client *c) { (void)c; }
static void compressed_frame(struct client *c, const uint8_t *data, size_t len) {
    (void)c, (void)data, (void)len, counts.strange++;
}
#endif

static void closed_by_frame(struct client *c, const uint8_t *payload, size_t len) {
    uint8_t frame[140];
    if (c->state != CLOSING) put(c, frame, frame_of(frame, 8, payload, len < 126 ? len : 2));
    if (c->fd < 0) return;
    counts.last_close = len >= 2 ? payload[0] << 8 | payload[1] : 1005;
    char why[140];
    int size = len > 2 && len < 126 ? (int)len - 2 : 0;
    snprintf(why, sizeof why, "%d %.*s", counts.last_close, size, size ? (const char *)payload + 2 : "");
    lost_connection(c, why);
}

/* Take one frame of the server. Return its size, or 0 where more is needed. */
static size_t take_frame(struct client *c, const uint8_t *data, size_t len) {
    if (len < 2) return 0;
    uint64_t size = data[1] & 127;
    size_t at = 2;
    if (size == 126) {
        if (len < 4) return 0;
        size = (uint64_t)data[2] << 8 | data[3], at = 4;
    } else if (size == 127) {
        if (len < 10) return 0;
        size = 0, at = 10;
        for (int i = 2; i < 10; i++) size = size << 8 | data[i];
    }
    if (len < at + size) return 0;
    int opcode = data[0] & 15;
    if (data[1] & 128 || !(data[0] & 128) || opcode == 0) counts.strange++;
    else if (opcode == 1 || opcode == 2) (data[0] & 64 ? compressed_frame : data_frame)(c, data + at, size);
    else if (opcode == 8) closed_by_frame(c, data + at, size);
    else if (opcode == 9) {
        uint8_t frame[140];
        put(c, frame, frame_of(frame, 10, data + at, size < 126 ? size : 0));
    }
    return at + size;
}

static size_t take_handshake(struct client *c, const uint8_t *data, size_t len) {
    const uint8_t *end = memmem(data, len, "\r\n\r\n", 4);
    if (!end) return 0;
    if (memcmp(data, "HTTP/1.1 101", 12)) {
        note_error("no WebSocket", data, (size_t)(end - data));
        counts.refused++;
        lost_connection(c, "refused");
        return len;
    }
    if (plan.deflate && memmem(data, (size_t)(end - data), "permessage-deflate", 18))
        make_inflater(c, !memmem(data, (size_t)(end - data), "server_no_context_takeover", 26));
    c->state = GREETING;
    answer(c);
    return (size_t)(end + 4 - data);
}

static size_t take_response(struct client *c, const uint8_t *data, size_t len) {
    const uint8_t *end = memmem(data, len, "\r\n\r\n", 4);
    if (!end) return 0;
    size_t size = 0;
    int known = 0;
    for (const uint8_t *line = data; line < end;) {
        const uint8_t *next = memmem(line, (size_t)(end + 2 - line), "\r\n", 2);
        if (next - line > 15 && !strncasecmp((const char *)line, "content-length:", 15))
            size = number_at(line + 15, next), known = 1;
        line = next + 2;
    }
    size_t whole = (size_t)(end + 4 - data) + size;
    if (len < whole) return 0;
    if (!known || len < 12 || memcmp(data + 9, "200", 3)) note_error("HTTP", data, (size_t)(end - data));
    rooms[c->room].answered++;
    message(c, end + 4, size);
    flush_room(&rooms[c->room]);
    return whole;
}

static void readable(struct client *c) {
    if (input_size < c->rest_len + READ_BYTES) input = grown(input, input_size = c->rest_len * 2 + READ_BYTES);
    if (c->rest_len) memcpy(input, c->rest, c->rest_len);
    ssize_t got = recv(c->fd, input + c->rest_len, READ_BYTES, 0);
    if (got <= 0) {
        if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
        return lost_connection(c, got ? strerror(errno) : "end of stream");
    }
    counts.reads++, counts.bytes += (uint64_t)got;
    now = clock_ns(CLOCK_MONOTONIC);
    size_t len = c->rest_len + (size_t)got, at = 0;
    uint32_t generation = c->generation;
    while (at < len) {
        size_t used = c->state == SHAKING ? take_handshake(c, input + at, len - at)
                      : plan.http         ? take_response(c, input + at, len - at)
                                          : take_frame(c, input + at, len - at);
        if (c->generation != generation) return;
        if (!used) break;
        at += used;
    }
    free(c->rest);
    c->rest = NULL, c->rest_len = len - at;
    if (c->rest_len) c->rest = memcpy(grown(NULL, c->rest_len), input + at, c->rest_len);
}

/* Jobs */

static void print_report(const char *name) {
    uint64_t lost = 0, undelivered = 0, ready = 0;
    memset(&worst, 0, sizeof worst);
    for (uint32_t i = 0; i < client_count; i++) {
        struct client *c = &clients[i];
        if (c->state == READY) ready++;
        if (c->worst) note(&worst, 0, c->worst);
        if (c->fd < 0 && !c->knows) continue;
        for (uint32_t seq = c->from; seq < rooms[c->room].published; seq++) {
            if (seq / 64 < c->seen_words && c->seen[seq / 64] >> (seq % 64) & 1) continue;
            if (seq < c->top) lost++;
            else undelivered++;
        }
    }
    now = clock_ns(CLOCK_MONOTONIC);
    printf("{\"job\":\"%s\",\"seconds\":%.6f,\"load_cpu_s\":%.6f,\"ready\":%llu,\"done\":%llu", name,
           (double)(now - job_began) / 1e9, (double)(clock_ns(CLOCK_PROCESS_CPUTIME_ID) - job_cpu) / 1e9,
           (unsigned long long)ready, (unsigned long long)done_count);
#define COUNT(what) printf(",\"" #what "\":%llu", (unsigned long long)counts.what)
    COUNT(published), COUNT(expected), COUNT(delivered), COUNT(doubled), COUNT(reordered), COUNT(strange);
    COUNT(closed), COUNT(refused), COUNT(cuts), COUNT(returns), COUNT(errors);
    COUNT(frames), COUNT(messages), COUNT(bytes), COUNT(reads), COUNT(other), COUNT(inflated);
    printf(",\"lost\":%llu,\"undelivered\":%llu,\"last_close\":%d,\"first_error\":\"%s\"", (unsigned long long)lost,
           (unsigned long long)undelivered, counts.last_close, counts.first_error);
    print_histogram("latency", &latency, latency.count + (replay.count ? 0 : owed));
    print_histogram("replay", &replay, replay.count);
    print_histogram("back", &back, back.count);
    print_histogram("late", &late, late.count);
    print_histogram("connect", &connecting, connecting.count);
    print_histogram("worst", &worst, worst.count);
    printf("}\n");
    fflush(stdout);
}

static void begin_job(int which) {
    job = (int)which == 0 ? NOTHING : (typeof(job))which;
    now = job_began = clock_ns(CLOCK_MONOTONIC);
    job_cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    started_count = done_count = in_flight = 0;
    deadline = now + (uint64_t)(rates.patience * 1e9);
    next_scan = NEVER;
}

static void room_for_clients(uint32_t count) {
    if (count <= client_room_for) return;
    clients = grown(clients, count * sizeof *clients);
    memset(clients + client_room_for, 0, (count - client_room_for) * sizeof *clients);
    for (uint32_t i = client_room_for; i < count; i++) clients[i].fd = -1;
    client_room_for = count;
}

static void begin_open(void) {
    room_for_clients(client_count + (uint32_t)rates.count);
    if (room_count < (uint32_t)rates.rooms) {
        rooms = grown(rooms, (size_t)rates.rooms * sizeof *rooms);
        memset(rooms + room_count, 0, ((size_t)rates.rooms - room_count) * sizeof *rooms);
        room_count = (uint32_t)rates.rooms;
    }
    memset(&connecting, 0, sizeof connecting);
    begin_job(OPENING);
}

static void begin_publishing(void) {
    memset(&latency, 0, sizeof latency), memset(&replay, 0, sizeof replay), memset(&late, 0, sizeof late);
    memset(&back, 0, sizeof back);
    random_state = 88172645463325252ull ^ (uint64_t)rates.seed * 0x9E3779B97F4A7C15ull;
    for (uint32_t i = 0; i < room_count; i++) rooms[i].measured_from = rooms[i].published;
    for (uint32_t i = 0; i < client_count; i++) clients[i].worst = 0;
    if (rates.pick_zipf) {
        zipf = grown(zipf, room_count * sizeof *zipf);
        double sum = 0;
        for (uint32_t i = 0; i < room_count; i++) zipf[i] = sum += pow(i + 1, -rates.skew);
    }
    begin_job(PUBLISHING);
    next_due = now;
    double planned = rates.rate > 0 ? (double)rates.count / (double)rates.burst / rates.rate : 0;
    deadline += (uint64_t)(planned * 1e9);
    if (rates.cut_every > 0 || plan.reconnect_ms >= 0) next_scan = now;
    for (uint32_t i = 0; i < client_count; i++)
        clients[i].cut_at = rates.cut_every > 0 && rooms[clients[i].room].publisher != i
                                ? now + (uint64_t)(draw_share() * rates.cut_every * 1e9) : NEVER;
    if (rates.rate > 0) return;
    for (uint32_t i = 0; i < room_count && started_count < (uint64_t)rates.count; i++) {
        started_count++;
        publish_due(&rooms[i], now);
        flush_room(&rooms[i]);
    }
}

static void begin_storm(void) {
    room_for_clients((uint32_t)rates.at_once);
    if (!room_count) rooms = grown(NULL, sizeof *rooms), memset(rooms, 0, sizeof *rooms), room_count = 1;
    client_count = (uint32_t)rates.at_once;
    memset(&connecting, 0, sizeof connecting);
    begin_job(STORMING);
}

/* Cut whose time has come, and bring back who was away; looked at each 10 ms. */
static void scan_clients(void) {
    if (now < next_scan) return;
    next_scan = now + SECOND / 100;
    for (uint32_t i = 0; i < client_count; i++) {
        struct client *c = &clients[i];
        if (c->state == READY && c->cut_at <= now && started_count < (uint64_t)rates.count) {
            shut(c);
            counts.cuts++, c->state = AWAY, c->back_at = now + (uint64_t)(rates.away * 1e9);
        } else if (c->state == AWAY && c->back_at <= now) {
            in_flight++;
            begin_connecting(c);
        }
    }
}

static int all_are_back(void) {
    for (uint32_t i = 0; i < client_count; i++)
        if (clients[i].state != READY) return 0;
    return 1;
}

static void go_on(void) {
    now = clock_ns(CLOCK_MONOTONIC);
    if (job == OPENING) {
        while (started_count < (uint64_t)rates.count && in_flight < (uint64_t)rates.at_once && !counts.closed) {
            struct client *c = &clients[client_count];
            c->number = client_count++, c->room = c->number % room_count;
            started_count++, in_flight++;
            begin_connecting(c);
        }
        int over = done_count >= (uint64_t)rates.count || counts.closed || now >= deadline;
        if (over) print_report("open"), job = NOTHING;
    } else if (job == STORMING) {
        speak();
        for (uint32_t i = 0; i < client_count && started_count < (uint64_t)rates.count && !counts.closed; i++) {
            struct client *c = &clients[i];
            if (c->state != IDLE) continue;
            c->number = (uint32_t)started_count++, c->knows = 0;
            in_flight++;
            begin_connecting(c);
        }
        int over = done_count >= (uint64_t)rates.count || counts.closed || now >= deadline;
        if (over) print_report("storm"), job = NOTHING;
    } else if (job == PUBLISHING) {
        publish_what_is_due();
        if (next_scan != NEVER) scan_clients();
        int over = started_count >= (uint64_t)rates.count && !owed && (next_scan == NEVER || all_are_back());
        if (over || now >= deadline || (counts.closed && plan.reconnect_ms < 0)) print_report("publish"), job = NOTHING;
    }
}

/* Lines */

static void unescape(char *out, size_t room_for, const char *in, size_t len) {
    size_t at = 0;
    for (size_t i = 0; i < len && at + 1 < room_for; i++) {
        if (in[i] == '\\' && i + 1 < len) {
            char next = in[++i];
            out[at++] = next == 'n' ? '\n' : next == 'r' ? '\r' : next == 't' ? '\t' : next;
        } else out[at++] = in[i];
    }
    out[at] = 0;
}

static void take_step(struct step *steps, int *count, const char *text) {
    if (*count >= STEPS) return;
    const char *tab = strchr(text, '\t');
    size_t len = tab ? (size_t)(tab - text) : strlen(text);
    struct step *step = &steps[(*count)++];
    unescape(step->text, sizeof step->text, text, len);
    step->expected[0] = 0;
    if (tab) unescape(step->expected, sizeof step->expected, tab + 1, strlen(tab + 1));
}

static void take_rates(char *text) {
    rates = (struct rates){
        .count = 1, .at_once = 64, .rooms = 1, .burst = 1, .size = 128, .patience = 30, .skew = 1, .away = 2};
    for (char *word = strtok(text, " "); word; word = strtok(NULL, " ")) {
        char *value = strchr(word, '=');
        if (!value) continue;
        *value++ = 0;
        if (!strcmp(word, "count")) rates.count = atol(value);
        else if (!strcmp(word, "at_once")) rates.at_once = atol(value);
        else if (!strcmp(word, "rooms")) rates.rooms = atol(value);
        else if (!strcmp(word, "burst")) rates.burst = atol(value);
        else if (!strcmp(word, "size")) rates.size = atol(value);
        else if (!strcmp(word, "items")) rates.items = atol(value);
        else if (!strcmp(word, "seed")) rates.seed = atol(value);
        else if (!strcmp(word, "pick")) rates.pick_zipf = !strcmp(value, "zipf");
        else if (!strcmp(word, "rate")) rates.rate = atof(value);
        else if (!strcmp(word, "skew")) rates.skew = atof(value);
        else if (!strcmp(word, "patience")) rates.patience = atof(value);
        else if (!strcmp(word, "cut_every")) rates.cut_every = atof(value);
        else if (!strcmp(word, "away")) rates.away = atof(value);
        else if (!strcmp(word, "think")) rates.think = atof(value);
    }
    if (rates.burst < 1) rates.burst = 1;
}

static void take_setting(const char *name, const char *value) {
    if (!strcmp(name, "port")) plan.port = atoi(value);
    else if (!strcmp(name, "path")) unescape(plan.path, sizeof plan.path, value, strlen(value));
    else if (!strcmp(name, "protocol")) plan.http = !strcmp(value, "http");
    else if (!strcmp(name, "lines")) plan.lines = atoi(value);
    else if (!strcmp(name, "bursts")) plan.bursts = atoi(value);
    else if (!strcmp(name, "deflate")) plan.deflate = atoi(value);
    else if (!strcmp(name, "ping")) unescape(plan.ping, sizeof plan.ping, value, strlen(value));
    else if (!strcmp(name, "pong")) unescape(plan.pong, sizeof plan.pong, value, strlen(value));
    else if (!strcmp(name, "reconnect_ms")) plan.reconnect_ms = atoi(value);
}

/* End the job as if all that is planned had been due. */
static void stop_publishing(void) {
    if (job != PUBLISHING || rates.rate <= 0) return; /* it has ended by itself */
    rates.count = (long)started_count;
    deadline = now + (uint64_t)(rates.patience * 1e9);
}

static void take_line(char *line) {
    char *rest = strchr(line, ' ');
    if (rest) *rest++ = 0;
    else rest = line + strlen(line);
    if (!strcmp(line, "set")) {
        char *value = strchr(rest, ' ');
        if (value) *value = 0, take_setting(rest, value + 1);
    } else if (!strcmp(line, "greet")) take_step(plan.greet, &plan.greets, rest);
    else if (!strcmp(line, "again")) take_step(plan.again, &plan.agains, rest);
    else if (!strcmp(line, "publication")) unescape(plan.publication, sizeof plan.publication, rest, strlen(rest));
    else if (!strcmp(line, "open")) take_rates(rest), begin_open();
    else if (!strcmp(line, "publish")) take_rates(rest), begin_publishing();
    else if (!strcmp(line, "storm")) take_rates(rest), begin_storm();
    else if (!strcmp(line, "stop")) stop_publishing();
    else if (!strcmp(line, "report")) print_report("report");
    else if (!strcmp(line, "quit")) exit(0);
    else fprintf(stderr, "load: unknown line: %s\n", line), exit(1);
}

static char lines[1 << 16];
static size_t lines_len;

static void read_lines(void) {
    ssize_t got = read(0, lines + lines_len, sizeof lines - 1 - lines_len);
    if (got <= 0) exit(0);
    lines_len += (size_t)got;
}

static void take_lines(void) {
    char *end;
    while (lines_len && (end = memchr(lines, '\n', lines_len))) {
        if (job != NOTHING && strncmp(lines, "stop\n", 5)) return; /* one job at a time */
        char line[2 * TEXT];
        size_t len = (size_t)(end - lines);
        if (len >= sizeof line) len = sizeof line - 1;
        memcpy(line, lines, len), line[len] = 0;
        lines_len -= (size_t)(end + 1 - lines);
        memmove(lines, end + 1, lines_len);
        take_line(line);
        go_on();
    }
}

static void arm_timer(void) {
    uint64_t at = NEVER;
    if (job != NOTHING) at = deadline;
    if (job == PUBLISHING && rates.rate > 0 && started_count < (uint64_t)rates.count && next_due < at) at = next_due;
    if (job == PUBLISHING && next_scan < at) at = next_scan;
    if (job == STORMING && next_speech < at) at = next_speech;
    if (timer_at && timer_at <= at) return; /* it rings in time; too early does no harm */
    timer_at = at;
    struct itimerspec when = {0};
    if (at != NEVER) when.it_value.tv_sec = (time_t)(at / SECOND), when.it_value.tv_nsec = (long)(at % SECOND);
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
}

int main(void) {
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files;
    if (!getrlimit(RLIMIT_NOFILE, &files)) files.rlim_cur = files.rlim_max, setrlimit(RLIMIT_NOFILE, &files);
    poller = epoll_create1(EPOLL_CLOEXEC);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = TIMER};
    epoll_ctl(poller, EPOLL_CTL_ADD, timer, &event);
    event.data.u64 = STDIN;
    epoll_ctl(poller, EPOLL_CTL_ADD, 0, &event);
    for (;;) {
        struct epoll_event events[EVENTS];
        arm_timer();
        int count = epoll_wait(poller, events, EVENTS, -1);
        now = clock_ns(CLOCK_MONOTONIC);
        for (int i = 0; i < count; i++) {
            uint32_t index = (uint32_t)events[i].data.u64;
            if (index == STDIN) { read_lines(); continue; }
            if (index == TIMER) {
                uint64_t ticks;
                if (read(timer, &ticks, sizeof ticks) > 0) timer_at = 0;
                continue;
            }
            struct client *c = &clients[index];
            if (c->generation != events[i].data.u64 >> 32 || c->fd < 0) continue;
            if (c->state == CONNECTING) connected(c);
            else if (events[i].events & EPOLLOUT && c->unsent_len) put_rest(c);
            if (c->fd >= 0 && c->state != CONNECTING && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR) &&
                c->generation == events[i].data.u64 >> 32) readable(c);
        }
        go_on();
        take_lines();
    }
}
