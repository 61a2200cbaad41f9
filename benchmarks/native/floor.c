/*
 * The floor: the least that a WebSocket server can do, so that others can be told as a multiple of it.
 *
 * One process, one thread, one level-triggered epoll loop, compiled by benchmarks/compile.py. It does the opening
 * handshake (RFC 6455 section 4.2.2), unmasks whole text frames, and knows two kinds of clients: one that said
 * {"join":"ROOM"} is a member, and what it sends goes to every member of that room, itself included, by one send()
 * each; what any other sends comes back to it. Pings are answered, a close frame ends the connection. It never checks
 * UTF-8, never joins fragments, never waits for a slow client (it cuts it), and never listens on anything but
 * 127.0.0.1: it is a measure, not a server.
 *
 *   floor [--drop N] [--double N]     each Nth delivery is left out, or made twice: dirt, for tests of the ledger
 *
 * Prints "port N" when it listens.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { READ_BYTES = 256 * 1024, HEAD_BYTES = 16 * 1024, EVENTS = 512, ROOM_NAME = 64 };

struct room {
    char name[ROOM_NAME];
    struct client **members;
    size_t count, room_for;
    struct room *next; /* in its bucket */
};

struct client {
    int fd;
    int open; /* the handshake is done */
    struct room *room;
    size_t place;  /* among the room's members */
    uint8_t *rest; /* bytes of a head or frame that is not whole yet */
    size_t rest_len;
};

static int poller;
static long drop_each, double_each, deliveries;
static struct room *buckets[4096];
static uint8_t input[READ_BYTES + HEAD_BYTES + 70000];

/* SHA-1 (FIPS 180-4, section 6.1) of up to 119 bytes, which is all that a handshake needs. */
static uint32_t rotl(uint32_t x, int n) { return x << n | x >> (32 - n); }

static void sha1(const uint8_t *text, size_t len, uint8_t out[20]) {
    uint32_t h[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0};
    uint8_t padded[128] = {0};
    size_t blocks = (len + 9 + 63) / 64;
    memcpy(padded, text, len);
    padded[len] = 0x80;
    for (int i = 0; i < 8; i++) padded[blocks * 64 - 1 - i] = (uint8_t)((uint64_t)len * 8 >> (8 * i));
    for (size_t b = 0; b < blocks; b++) {
        uint32_t w[80];
        for (int i = 0; i < 16; i++) {
            const uint8_t *p = padded + b * 64 + i * 4;
            w[i] = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
        }
        for (int i = 16; i < 80; i++) w[i] = rotl(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
        uint32_t a = h[0], bb = h[1], c = h[2], d = h[3], e = h[4];
        for (int i = 0; i < 80; i++) {
            uint32_t f, k;
            if (i < 20) f = (bb & c) | (~bb & d), k = 0x5A827999;
            else if (i < 40) f = bb ^ c ^ d, k = 0x6ED9EBA1;
            else if (i < 60) f = (bb & c) | (bb & d) | (c & d), k = 0x8F1BBCDC;
            else f = bb ^ c ^ d, k = 0xCA62C1D6;
            uint32_t t = rotl(a, 5) + f + e + k + w[i];
            e = d, d = c, c = rotl(bb, 30), bb = a, a = t;
        }
        h[0] += a, h[1] += bb, h[2] += c, h[3] += d, h[4] += e;
    }
    for (int i = 0; i < 20; i++) out[i] = (uint8_t)(h[i / 4] >> (24 - 8 * (i % 4)));
}

static void base64(const uint8_t in[20], char out[29]) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (int i = 0, at = 0; i < 21; i += 3, at += 4) {
        uint32_t v = (uint32_t)in[i] << 16 | (uint32_t)in[i + 1] << 8 | (i + 2 < 20 ? in[i + 2] : 0);
        for (int j = 0; j < 4; j++) out[at + j] = digits[v >> (18 - 6 * j) & 63];
    }
    out[27] = '=', out[28] = 0;
}

static struct room *room_named(const char *name, size_t len) {
    if (len >= ROOM_NAME) len = ROOM_NAME - 1;
    uint32_t hash = 2166136261u;
    for (size_t i = 0; i < len; i++) hash = (hash ^ (uint8_t)name[i]) * 16777619u;
    struct room **at = &buckets[hash % 4096];
    for (struct room *r = *at; r; r = r->next)
        if (strlen(r->name) == len && !memcmp(r->name, name, len)) return r;
    struct room *r = calloc(1, sizeof *r);
    if (!r) abort();
    memcpy(r->name, name, len);
    r->next = *at;
    return *at = r;
}

static void enter(struct client *c, struct room *r) {
    if (c->room) return;
    if (r->count == r->room_for) {
        r->room_for = r->room_for ? r->room_for * 2 : 16;
        r->members = realloc(r->members, r->room_for * sizeof *r->members);
        if (!r->members) abort();
    }
    c->room = r, c->place = r->count;
    r->members[r->count++] = c;
}

/* Cut a connection. Its memory stays until the loop's turn is over: the same turn may hold another event for it. */
static struct client *graves[EVENTS * 4];
static size_t grave_count;

static void cut(struct client *c) {
    if (c->fd < 0) return;
    close(c->fd);
    c->fd = -1;
    if (c->room) {
        struct client *last = c->room->members[--c->room->count];
        c->room->members[c->place] = last;
        last->place = c->place;
    }
    free(c->rest);
    c->rest = NULL, c->rest_len = 0;
    if (grave_count < EVENTS * 4) graves[grave_count++] = c;
}

static int put(struct client *c, const void *data, size_t len) {
    return send(c->fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)len;
}

static size_t frame_of(uint8_t *out, uint8_t first, const uint8_t *payload, size_t len) {
    size_t at = 0;
    out[at++] = first;
    if (len < 126) out[at++] = (uint8_t)len;
    else out[at++] = 126, out[at++] = (uint8_t)(len >> 8), out[at++] = (uint8_t)len;
    memcpy(out + at, payload, len);
    return at + len;
}

static void broadcast(struct room *r, const uint8_t *frame, size_t len) {
    for (size_t i = r->count; i-- > 0;) { /* backwards: who is cut is replaced by one who had it */
        deliveries++;
        if (drop_each && deliveries % drop_each == 0) continue;
        struct client *member = r->members[i];
        if (double_each && deliveries % double_each == 0) put(member, frame, len);
        if (!put(member, frame, len)) cut(member);
    }
}

static void message(struct client *c, const uint8_t *text, size_t len) {
    static uint8_t frame[70000];
    static const char join[] = "{\"join\":\"";
    if (len > sizeof join && !memcmp(text, join, sizeof join - 1)) {
        const char *name = (const char *)text + sizeof join - 1;
        const char *end = memchr(name, '"', len - sizeof join + 1);
        if (!end) return cut(c);
        char answer[ROOM_NAME + 16];
        int shown = end - name < 50 ? (int)(end - name) : 50;
        int size = snprintf(answer, sizeof answer, "{\"joined\":\"%.*s\"}", shown, name);
        enter(c, room_named(name, (size_t)(end - name)));
        if (!put(c, frame, frame_of(frame, 0x81, (uint8_t *)answer, (size_t)size))) cut(c);
        return;
    }
    size_t size = frame_of(frame, 0x81, text, len);
    if (c->room) broadcast(c->room, frame, size);
    else if (!put(c, frame, size)) cut(c);
}

/* Take one frame. Return its whole size, 0 where more is needed, -1 where the connection is to be cut. */
static ssize_t take(struct client *c, uint8_t *data, size_t len) {
    if (len < 6) return 0;
    size_t size = data[1] & 127, at = 2;
    if (!(data[1] & 128) || size == 127) return -1;
    if (size == 126) size = (size_t)data[2] << 8 | data[3], at = 4;
    if (len < at + 4 + size) return 0;
    const uint8_t *mask = data + at;
    uint8_t *payload = data + at + 4;
    for (size_t i = 0; i < size; i++) payload[i] ^= mask[i & 3];
    int opcode = data[0] & 15;
    if (opcode == 8) {
        uint8_t answer[128];
        put(c, answer, frame_of(answer, 0x88, payload, size < 126 ? size : 2));
        return -1;
    }
    if (opcode == 9) {
        uint8_t answer[128];
        put(c, answer, frame_of(answer, 0x8A, payload, size < 126 ? size : 0));
    } else if (opcode == 1) message(c, payload, size);
    return (ssize_t)(at + 4 + size);
}

/* Answer the opening handshake. Return the size of the head, 0 where more is needed, -1 where it is not one. */
static ssize_t shake_hands(struct client *c, uint8_t *data, size_t len) {
    uint8_t *end = memmem(data, len, "\r\n\r\n", 4);
    if (!end) return len > HEAD_BYTES ? -1 : 0;
    static const char name[] = "Sec-WebSocket-Key: ";
    uint8_t *key = memmem(data, (size_t)(end - data), name, sizeof name - 1);
    if (!key || end - key < (long)sizeof name - 1 + 24) return -1;
    uint8_t text[60], digest[20];
    char accept[29], answer[200];
    memcpy(text, key + sizeof name - 1, 24);
    memcpy(text + 24, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11", 36);
    sha1(text, 60, digest);
    base64(digest, accept);
    int size = snprintf(answer, sizeof answer,
                        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                        "Sec-WebSocket-Accept: %s\r\n\r\n",
                        accept);
    if (!put(c, answer, (size_t)size)) return -1;
    c->open = 1;
    return end + 4 - data;
}

static void readable(struct client *c) {
    size_t have = c->rest_len;
    if (have) memcpy(input, c->rest, have);
    ssize_t got = recv(c->fd, input + have, READ_BYTES, MSG_DONTWAIT);
    if (got <= 0) {
        if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
        return cut(c);
    }
    size_t len = have + (size_t)got, at = 0;
    while (c->fd >= 0 && at < len) {
        ssize_t used = c->open ? take(c, input + at, len - at) : shake_hands(c, input + at, len - at);
        if (used < 0) return cut(c);
        if (used == 0) break;
        at += (size_t)used;
    }
    if (c->fd < 0) return;
    free(c->rest);
    c->rest = NULL;
    c->rest_len = len - at;
    if (c->rest_len > HEAD_BYTES + 70000) return cut(c);
    if (c->rest_len) {
        c->rest = malloc(c->rest_len);
        if (!c->rest) abort();
        memcpy(c->rest, input + at, c->rest_len);
    }
}

static void take_in(int listener) {
    for (int i = 0; i < 64; i++) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) return;
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct client *c = calloc(1, sizeof *c);
        if (!c) abort();
        c->fd = fd;
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
    }
}

int main(int argc, char **argv) {
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--drop")) drop_each = atol(argv[i + 1]);
        if (!strcmp(argv[i], "--double")) double_each = atol(argv[i + 1]);
    }
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files;
    if (!getrlimit(RLIMIT_NOFILE, &files)) files.rlim_cur = files.rlim_max, setrlimit(RLIMIT_NOFILE, &files);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096) ||
        getsockname(listener, (struct sockaddr *)&address, &size)) {
        perror("floor");
        return 1;
    }
    poller = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    printf("port %d\n", ntohs(address.sin_port));
    fflush(stdout);
    for (;;) {
        struct epoll_event events[EVENTS];
        int count = epoll_wait(poller, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            struct client *c = events[i].data.ptr;
            if (!c) take_in(listener);
            else if (c->fd >= 0) readable(c);
        }
        while (grave_count) free(graves[--grave_count]);
    }
}
