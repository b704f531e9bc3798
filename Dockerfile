# Build the one binary, then run it as a user without rights.
FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o /flotilla-os .

FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates bash \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --home-dir /var/lib/flotilla --create-home flotilla
COPY --from=build /flotilla-os /usr/local/bin/flotilla-os
COPY conf/ /etc/flotilla/
USER 10001
WORKDIR /var/lib/flotilla
EXPOSE 5000
ENTRYPOINT ["flotilla-os"]
CMD ["serve", "/etc/flotilla"]
