FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -o /out/flagstead ./cmd/flagstead \
 && CGO_ENABLED=0 go build -trimpath -o /out/worker ./examples/worker \
 && mkdir -p /out/state

FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /out/flagstead /out/worker /
# A volume that is mounted here for the first time is the user's, as this is.
COPY --from=build --chown=65532:65532 --chmod=0700 /out/state /var/lib/flagstead
USER 65532:65532
EXPOSE 6100 6101
ENTRYPOINT ["/flagstead"]
