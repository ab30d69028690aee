/* UDP traffic for benchmarks, the same for every path that is compared.
 *
 *   traffic flood ADDRESS PORT BYTES SECONDS [RATE]   send RATE packets a second, without one as fast as the kernel
 *                                               takes them; prints packets sent
 *   traffic sink  ADDRESS PORT SECONDS          receive; prints packets received and seconds from first to last
 *   traffic echo  ADDRESS PORT SECONDS          send everything back
 *   traffic ping  ADDRESS PORT BYTES COUNT GAP  one at a time, GAP microseconds apart; prints lost, then in
 *                                               microseconds median, 99th percentile, minimum, maximum
 *   traffic stream ADDRESS PORT SECONDS GAP     a numbered probe every GAP microseconds; prints probes sent
 *   traffic record ADDRESS PORT SECONDS         for each probe that arrives its number, when it should have been sent
 *                                               and when it came (three 64-bit numbers, monotonic ns) to stdout
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>

enum { BATCH = 32, LARGEST = 2048 };

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static int by_size(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void patience(int s, int ms) {
    struct timeval t = {ms / 1000, ms % 1000 * 1000};
    setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
}

static int wait_until(uint64_t when) {
    struct timespec t = {when / 1000000000, when % 1000000000};
    return clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

static int flood(int s, int bytes, double seconds, double rate) {
    static char payload[LARGEST];
    struct iovec part = {payload, bytes};
    struct mmsghdr batch[BATCH];
    memset(batch, 0, sizeof batch);
    for (int i = 0; i < BATCH; i++) batch[i].msg_hdr = (struct msghdr){.msg_iov = &part, .msg_iovlen = 1};
    uint64_t sent = 0, start = now(), end = start + seconds * 1e9;
    while (now() < end) {
        int n = sendmmsg(s, batch, rate ? 1 : BATCH, 0);
        if (n > 0) sent += n;
        if (rate) wait_until(start + sent * (1e9 / rate));
    }
    printf("%lu\n", (unsigned long)sent);
    return 0;
}

static int sink(int s, double seconds) {
    static char payload[BATCH][LARGEST];
    struct iovec part[BATCH];
    struct mmsghdr batch[BATCH];
    memset(batch, 0, sizeof batch);
    for (int i = 0; i < BATCH; i++) {
        part[i] = (struct iovec){payload[i], LARGEST};
        batch[i].msg_hdr = (struct msghdr){.msg_iov = &part[i], .msg_iovlen = 1};
    }
    uint64_t got = 0, first = 0, last = 0, end = now() + seconds * 1e9;
    patience(s, 50);
    while (now() < end) {
        int n = recvmmsg(s, batch, BATCH, MSG_WAITFORONE, NULL);
        if (n <= 0) continue;
        last = now();
        if (!first) first = last;
        got += n;
    }
    printf("%lu %.6f\n", (unsigned long)got, (last - first) / 1e9);
    return 0;
}

static int echo(int s, double seconds) {
    char payload[LARGEST];
    uint64_t end = now() + seconds * 1e9;
    patience(s, 50);
    while (now() < end) {
        struct sockaddr_in from;
        socklen_t size = sizeof from;
        int n = recvfrom(s, payload, sizeof payload, 0, (struct sockaddr *)&from, &size);
        if (n > 0) sendto(s, payload, n, 0, (struct sockaddr *)&from, size);
    }
    return 0;
}

static int ping(int s, int bytes, int count, int gap_us) {
    char payload[LARGEST] = {0};
    uint64_t *took = calloc(count, sizeof *took);
    int done = 0, lost = 0;
    patience(s, 200);
    for (uint32_t i = 1; i <= (uint32_t)count; i++) {
        uint64_t start = now();
        uint32_t back = 0;
        memcpy(payload, &i, sizeof i);
        send(s, payload, bytes, 0);
        int n;
        while ((n = recv(s, payload, sizeof payload, 0)) > 0 && (memcpy(&back, payload, sizeof back), back != i)) {}
        if (n > 0) took[done++] = now() - start;
        else lost++;
        if (gap_us) wait_until(start + gap_us * 1000ull);
    }
    qsort(took, done, sizeof *took, by_size);
    if (done) printf("%d %.2f %.2f %.2f %.2f\n", lost, took[done / 2] / 1e3, took[done * 99 / 100] / 1e3, took[0] / 1e3, took[done - 1] / 1e3);
    else printf("%d nan nan nan nan\n", lost);
    free(took);
    return 0;
}

static int stream(int s, double seconds, int gap_us) {
    uint64_t payload[8] = {0}, start = now(), end = start + seconds * 1e9;
    for (payload[1] = start; payload[1] < end; payload[0]++, payload[1] += gap_us * 1000ull) {
        wait_until(payload[1]);
        send(s, payload, sizeof payload, 0);
    }
    printf("%lu %lu\n", (unsigned long)payload[0], (unsigned long)start);
    return 0;
}

static int record(int s, double seconds) {
    uint64_t payload[LARGEST / 8], end = now() + seconds * 1e9;
    patience(s, 50);
    while (now() < end) {
        if (recv(s, payload, sizeof payload, 0) <= 0) continue;
        payload[2] = now();
        fwrite(payload, 8, 3, stdout);
    }
    return 0;
}

int main(int count, char **words) {
    if (count < 5) return 2;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(words[3]))};
    inet_aton(words[2], &address.sin_addr);
    int s = socket(AF_INET, SOCK_DGRAM, 0), room = 8 << 20;
    setsockopt(s, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
    int receives = !strcmp(words[1], "sink") || !strcmp(words[1], "echo") || !strcmp(words[1], "record");
    if (receives ? bind(s, (void *)&address, sizeof address) : connect(s, (void *)&address, sizeof address)) {
        perror(words[1]);
        return 1;
    }
    if (!strcmp(words[1], "sink")) return sink(s, atof(words[4]));
    if (!strcmp(words[1], "echo")) return echo(s, atof(words[4]));
    if (!strcmp(words[1], "record")) return record(s, atof(words[4]));
    if (!strcmp(words[1], "stream") && count == 6) return stream(s, atof(words[4]), atoi(words[5]));
    if (!strcmp(words[1], "flood") && count >= 6)
        return flood(s, atoi(words[4]), atof(words[5]), count > 6 ? atof(words[6]) : 0);
    if (!strcmp(words[1], "ping") && count == 7) return ping(s, atoi(words[4]), atoi(words[5]), atoi(words[6]));
    return 2;
}
