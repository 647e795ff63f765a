//! Connections against frames that were made by hand or at random.

use super::testing::Client;
use super::*;
use proptest::prelude::*;

/// All events of `bytes`, what went out, and how it ended.
async fn read(bytes: &[u8]) -> (Vec<Event>, Vec<Bytes>, Result<(), SpdyError>) {
    let (out, mut sent) = mpsc::channel(16);
    let mut connection = Connection::new(bytes, out).unwrap();
    let talk = async move {
        let mut events = Vec::new();
        loop {
            match connection.next().await {
                Ok(Some(event)) => events.push(event),
                Ok(None) => return (events, Ok(())),
                Err(error) => return (events, Err(error)),
            }
        }
    };
    let collect = async {
        let mut all = Vec::new();
        while let Some(frame) = sent.recv().await {
            all.push(frame);
        }
        all
    };
    let ((events, end), sent) = tokio::join!(talk, collect);
    (events, sent, end)
}

#[tokio::test]
async fn a_stream_lives_and_ends() {
    let mut client = Client::new();
    let bytes = [
        client.open(1, &[("streamtype", "stdin")]),
        data(1, b"hello"),
        frame::control(Kind::Ping, 0, &[&9_u32.to_be_bytes()]),
        end(1),
        data(1, b"late"),
        client.open_and_end(3, &[("streamtype", "error")]),
    ]
    .concat();
    let (events, sent, ended) = read(&bytes).await;
    ended.unwrap();
    let open = |id, kind| Event::Open { id, headers: Headers::of(&[("streamtype", kind)]) };
    assert_eq!(
        events,
        [
            open(1, "stdin"),
            Event::Data { id: 1, bytes: Bytes::from_static(b"hello") },
            Event::End { id: 1 },
            open(3, "error"),
            Event::End { id: 3 }
        ]
    );
    let kinds: Vec<u8> = sent.iter().map(|f| f[3]).collect();
    assert_eq!(kinds, [2, 6, 2], "a reply, a ping, a reply");
}

#[tokio::test]
async fn wrong_numbers_are_reset() {
    let mut client = Client::new();
    let bytes = [client.open(2, &[]), client.open(3, &[]), client.open(3, &[])];
    let (events, sent, ended) = read(&bytes.concat()).await;
    ended.unwrap();
    assert_eq!(events.len(), 1);
    assert_eq!((&sent[0], &sent[2]), (&reset(2, Reset::ProtocolError), &reset(3, Reset::ProtocolError)));
}

#[tokio::test]
async fn what_is_not_spdy_ends_with_go_away() {
    let (_, sent, ended) = read(&[0x80, 2, 0, 1, 0, 0, 0, 0]).await;
    assert!(matches!(ended, Err(SpdyError::Version(2))));
    assert_eq!(sent, [frame::go_away(0, true)]);
    let (_, _, ended) = read(&[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff]).await;
    assert!(matches!(ended, Err(SpdyError::TooLong(_))));
    let (_, _, ended) = read(&data(1, b"cut")[..9]).await;
    assert!(matches!(ended, Err(SpdyError::Read(_))));
}

/// Frames that look right, in any order and with any content.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop::collection::vec(any::<u8>(), 0..64);
    let control = (0_u16..12, any::<u8>(), payload.clone()).prop_map(|(kind, flags, payload)| {
        let length = u32::try_from(payload.len()).unwrap();
        let mut out = vec![0x80, 3];
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&((u32::from(flags) << 24) | length).to_be_bytes());
        out.extend_from_slice(&payload);
        out
    });
    let plain = (0_u32..8, payload.clone()).prop_map(|(id, payload)| data(id, &payload).to_vec());
    let ended = (0_u32..8).prop_map(|id| end(id).to_vec());
    let good = (0_u32..16).prop_map(|id| Client::new().open(id, &[("streamtype", "data")]).to_vec());
    prop::collection::vec(prop_oneof![control, plain, ended, good, payload], 0..20)
        .prop_map(|all| all.concat())
}

proptest! {
    #[test]
    fn any_frames_give_events_or_an_error(bytes in frames()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (events, _, _) = runtime.block_on(read(&bytes));
        // Data and ends come only for streams that were opened.
        let mut open = std::collections::HashSet::new();
        for event in events {
            match event {
                Event::Open { id, .. } => prop_assert!(open.insert(id)),
                Event::Data { id, .. } => prop_assert!(open.contains(&id)),
                Event::End { id } => prop_assert!(open.contains(&id)),
                Event::Reset { .. } => {}
            }
        }
    }
}
