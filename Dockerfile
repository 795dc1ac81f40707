FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -o /out/flagstead ./cmd/flagstead \
 && CGO_ENABLED=0 go build -trimpath -o /out/worker ./examples/worker

FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /out/flagstead /out/worker /
EXPOSE 6100
ENTRYPOINT ["/flagstead"]
