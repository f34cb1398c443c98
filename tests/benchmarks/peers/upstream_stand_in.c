/* A stand-in for a model's endpoint: every POST is answered with the same completion, so many milliseconds after its
 * last byte. One thread, epoll, HTTP/1.1 with keep-alive; it exists to cost little, so that it is not what is measured.
 *
 * upstream_stand_in PORT MILLISECONDS    listens on 127.0.0.1, writes "ready" and serves until it is killed.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { CONNECTIONS = 65536, ROOM = 65536, WAITING = 1 << 20, EVENTS = 256 };

/* Of each file descriptor: what came of a request, and a count of its owners, by which an answer that is due knows
 * whether its connection is still the one that asked. */
static struct connection { char *data; size_t have; unsigned owner; } connections[CONNECTIONS];
/* Answers in the order in which they are due, which is the order in which they were asked for. */
static struct answer { int fd; unsigned owner; long long at; } waiting[WAITING];
static size_t first, last;
static int poller, timer;
static long long delay;
static char reply[2048];
static size_t reply_length;

static long long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void must(int holds, const char *what) {
    if (!holds) {
        perror(what);
        exit(1);
    }
}

static void drop(int fd) {
    free(connections[fd].data);
    connections[fd] = (struct connection){NULL, 0, connections[fd].owner + 1};
    close(fd);
}

static void answer(int fd) {
    /* It fits into the socket's buffer unless its reader has stopped reading. */
    if (send(fd, reply, reply_length, MSG_NOSIGNAL) != (ssize_t)reply_length)
        drop(fd);
}

static void set_timer(void) {
    struct itimerspec t = {0};
    if (first != last) {
        t.it_value.tv_sec = waiting[first % WAITING].at / 1000000000LL;
        t.it_value.tv_nsec = waiting[first % WAITING].at % 1000000000LL;
    }
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &t, NULL);
}

/* The length of a whole request at the beginning of `data`; 0: it is not all there; -1: it is none. */
static long whole(char *data, size_t have) {
    char *end = memmem(data, have, "\r\n\r\n", 4);
    if (!end)
        return have < ROOM - 1 ? 0 : -1;
    *end = 0;
    char *length = strcasestr(data, "\r\ncontent-length:");
    long total = end + 4 - data + (length ? atol(length + 17) : 0);
    *end = '\r';
    return total > ROOM - 1 ? -1 : (size_t)total <= have ? total : 0;
}

static void take(int fd) {
    struct connection *c = &connections[fd];
    ssize_t got = recv(fd, c->data + c->have, ROOM - 1 - c->have, 0);
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN)
            drop(fd);
        return;
    }
    c->have += got;
    long length;
    while ((length = whole(c->data, c->have)) > 0) {
        c->have -= length;
        memmove(c->data, c->data + length, c->have);
        if (delay == 0) {
            answer(fd);
            if (!c->data)
                return;
            continue;
        }
        must(last - first < WAITING, "too many wait");
        waiting[last++ % WAITING] = (struct answer){fd, c->owner, now() + delay};
        if (last - first == 1)
            set_timer();
    }
    if (length < 0)
        drop(fd);
}

static void welcome(int listener) {
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        if (fd >= CONNECTIONS) {
            close(fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        connections[fd].data = malloc(ROOM);
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
    }
}

int main(int count, char **words) {
    must(count == 3, "PORT MILLISECONDS");
    delay = atoll(words[2]) * 1000000LL;
    const char *body =
        "{\"id\":\"chatcmpl-standin\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"stand-in\","
        "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"Your order left our warehouse "
        "this morning and should be with you within three working days.\",\"refusal\":null},\"logprobs\":null,"
        "\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":48,\"completion_tokens\":17,\"total_tokens\":65}}";
    reply_length = snprintf(reply, sizeof reply,
                            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n%s",
                            strlen(body), body);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(words[1]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    must(bind(listener, (struct sockaddr *)&address, sizeof address) == 0, "bind");
    must(listen(listener, 4096) == 0, "listen");
    poller = epoll_create1(0);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    int own[] = {listener, timer};
    for (int i = 0; i < 2; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = own[i]};
        epoll_ctl(poller, EPOLL_CTL_ADD, own[i], &event);
    }
    puts("ready");
    fflush(stdout);
    for (;;) {
        struct epoll_event events[EVENTS];
        int found = epoll_wait(poller, events, EVENTS, -1);
        for (int i = 0; i < found; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                welcome(listener);
            } else if (fd == timer) {
                unsigned long long times;
                if (read(timer, &times, sizeof times) < 0)
                    continue;
                for (long long t = now(); first != last && waiting[first % WAITING].at <= t; first++) {
                    struct answer due = waiting[first % WAITING];
                    if (connections[due.fd].data && connections[due.fd].owner == due.owner)
                        answer(due.fd);
                }
                set_timer();
            } else if (connections[fd].data) {
                take(fd);
            }
        }
    }
}
