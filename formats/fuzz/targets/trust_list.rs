//! Trust lists and reference times: whatever is in them, they are read to the end or refused, and none counts without its root.
#![no_main]

use kiln_formats::canonical;
use kiln_formats::certificate::Certificate;
use kiln_formats::trust_list::{ReferenceTime, SignedList, TrustList, current};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(list) = canonical::from_slice_exact::<TrustList>(bytes) {
        assert_eq!(canonical::to_vec(&list).expect("what was read is written"), bytes);
        assert!(list.counts_at(list.issued).is_ok() || list.expires < list.issued);
    }
    let Ok(SignedList { signed, .. }) = canonical::from_slice_exact(bytes) else { return };
    let Some(list) = signed.alleged_payload().ok().and_then(|payload| canonical::from_slice_exact::<TrustList>(&payload).ok())
    else {
        return;
    };
    if let Ok(root) = Certificate::from_pem(list.root.as_bytes()) {
        let alone = current(&[bytes.to_vec()], &root);
        assert!(alone.is_err() || current(&[bytes.to_vec(), bytes.to_vec()], &root).is_err(), "one list twice");
        let _ = ReferenceTime::verify(bytes, &list.site, &root);
    }
});
