from paddleseg_psp.commands.voc_aug import main

if __name__ == "__main__":
    main()
